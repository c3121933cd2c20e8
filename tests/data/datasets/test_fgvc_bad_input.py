"""FGVC: what is wrong with json lists, or with the numbers of classes and images, is said with file and key."""

import json
from pathlib import Path

import pytest
from support.fgvc_miniatures import cub, vpt
from support.fgvc_problems import LISTS, load, problems

from vision_peft.data.datasets.fgvc import FGVC, SIZES

pytestmark = pytest.mark.usefixtures("small_fgvc")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "train.json: the file is empty"),
        ("[1, 2]", "train.json: wanted an object of path: class id, got [1, 2]"),
        ("{}", "FOLDER: no image of train"),
        ('{"a/1.jpg": 1,}', "train.json: not readable as json (Expecting property name"),
        ("[" * 100_000, "train.json: not readable as json (nested too deep"),
        ("<html>", "train.json: not readable as json (Expecting value: line 1 column 1"),
        ('{"a/1.jpg": 1' + "0" * 5000 + "}", "train.json: not readable as json (the number 1000000000"),
    ],
)
def test_a_json_file_that_is_no_list_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    folder = vpt(tmp_path / "rocks", LISTS)
    (folder / "train.json").write_text(text)
    assert problems(folder)[0].startswith(said)


def test_json_that_is_not_utf_8_is_an_error_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "rocks", LISTS)
    (folder / "train.json").write_bytes(b"\xff\xfe\x00")
    assert problems(folder)[0] == "train.json: not UTF-8 text (invalid start byte at byte 0)"
    (folder / "train.json").write_text(json.dumps(LISTS["train"]), encoding="utf-8-sig")
    assert load(folder).labels == [0, 1]


def test_class_ids_that_are_none_are_errors_with_their_key(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "rocks", LISTS)
    values = {"a/1.jpg": 1, "b/1.jpg": "2", "c": -1, "d": 1.5, "e": True, "f": None, "g": "two", "h": [1], "i": 10**18}
    (folder / "train.json").write_text(json.dumps(values))
    wanted = [("c", "-1"), ("d", "1.5"), ("e", "True"), ("f", "None"), ("g", "'two'"), ("h", "[1]")]
    wanted += [("i", "1" + "0" * 18)]
    assert problems(folder) == [
        f"train.json: {key!r}: class id {value} is not an integer from 0" for key, value in wanted
    ]


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_a_number_that_json_does_not_have_is_an_error(tmp_path: Path, number: str) -> None:
    folder = vpt(tmp_path / "rocks", LISTS)
    (folder / "train.json").write_text('{"a/1.jpg": 1, "b/1.jpg": ' + number + "}")
    assert problems(folder)[0] == f"train.json: not readable as json ({number} is not a number in JSON: write null)"


def test_a_class_of_val_or_test_that_train_lacks_is_an_error_with_its_key(tmp_path: Path) -> None:
    lists = LISTS | {"val": {"a/2.jpg": 3}, "test": {"a/3.jpg": 1, "b/3.jpg": 2, "b/4.jpg": 0}}
    folder = vpt(tmp_path / "rocks", lists)
    for split in ("train", "test"):
        assert problems(folder, split) == [
            "val.json: 'a/2.jpg': class id 3 of val has no image in train",
            "test.json: 'b/4.jpg': class id 0 of test has no image in train",
        ]


def test_an_image_in_two_splits_or_twice_in_one_is_an_error(tmp_path: Path) -> None:
    lists = LISTS | {"test": {"a/./1.jpg": 1, "b/2.jpg": 2, "b/3.jpg": 2}}
    folder = vpt(tmp_path / "rocks", lists)
    (folder / "train.json").write_text('{"a/1.jpg": 1, "b/1.jpg": 2, "a/1.jpg": 1}')
    assert problems(folder, "val") == [
        "train.json: 'a/1.jpg': image 'images/a/1.jpg' is also in train.json: 'a/1.jpg'",
        "test.json: 'a/./1.jpg': image 'images/a/./1.jpg' is also in train.json: 'a/1.jpg': train and test overlap",
        "test.json: 'b/2.jpg': image 'images/b/2.jpg' is also in val.json: 'b/2.jpg': val and test overlap",
    ]


def test_images_that_are_missing_or_outside_are_errors_with_their_key(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "rocks", LISTS)
    (tmp_path / "secret.jpg").touch()
    (folder / "images/link.jpg").symlink_to(tmp_path / "secret.jpg")
    paths = ["a/1.jpg", "b/9.jpg", "../../secret.jpg", "/etc/hostname", "link.jpg", "x" * 5000, "nul\0l", "a", ""]
    (folder / "train.json").write_text(json.dumps({path: k % 2 + 1 for k, path in enumerate(paths)}))
    found = problems(folder)
    assert found[:4] == [
        "train.json: 'b/9.jpg': image 'images/b/9.jpg' is missing",
        f"train.json: '../../secret.jpg': path 'images/../../secret.jpg' leads out of {folder}".replace(
            str(folder), "FOLDER"
        ),
        "train.json: '/etc/hostname': path '/etc/hostname' is absolute: wanted a path below FOLDER",
        "train.json: 'link.jpg': path 'images/link.jpg' leads out of FOLDER",
    ]
    assert len(found) == 8
    assert all(len(line) < 500 for line in found)
    assert load(folder, "val").labels == [0, 1]


def test_lists_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "rocks", LISTS)
    (folder / "test.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*test\.json"):
        load(folder)


def test_a_class_id_without_images_is_warned_of_where_it_can_be_told(tmp_path: Path) -> None:
    lists = {split: {path: {1: 0, 2: 40}[label] for path, label in content.items()} for split, content in LISTS.items()}
    with pytest.warns(UserWarning, match="no image of class id 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and more in train"):
        assert load(vpt(tmp_path / "rocks", lists)).classes == ["a", "b"]


def test_a_split_that_has_too_few_images_to_be_divided_is_an_error(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "rocks", {split: LISTS[split] for split in ("train", "test")})
    with pytest.raises(ValueError, match="the split val is empty: every class has too few images"):
        load(folder, "val")
    with pytest.raises(ValueError, match=r"data\.val_fraction must be between 0 and 1 .*, got 1"):
        FGVC(val_fraction=1.0)


def test_a_known_task_with_another_number_of_classes_is_an_error(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "nabirds", LISTS)
    assert problems(folder) == ["FOLDER: 2 classes have images in train, wanted 3 (none of class id 3)"]
    made = cub(tmp_path / "cub")
    flags = (made.folder / "train_test_split.txt").read_text().splitlines()
    flags[12:16] = [flag.replace(" 1", " 0") for flag in flags[12:16]]
    (made.folder / "train_test_split.txt").write_text("\n".join(flags))
    assert problems(made.folder, "val") == [
        *(f"images.txt:{line}: class id 2 of test has no image in train" for line in range(13, 19)),
        "FOLDER: 2 classes have images in train, wanted 3 (none of class id 2)",
    ]


def test_a_known_task_with_another_number_of_images_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "cub", (5994, 5794))
    folder = cub(tmp_path / "cub").folder
    with pytest.warns(UserWarning, match="18 images of trainval; cub was published with 5,994"):
        load(folder)
    with pytest.warns(UserWarning, match="6 images of test; cub was published with 5,794"):
        load(folder, "test")
