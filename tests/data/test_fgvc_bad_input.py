"""FGVC: what is wrong with json lists, text lists and MATLAB files is said with file and place, all at once."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.fgvc_miniatures import BOX, cars, cell, cub, dogs, flowers, joint_cars, structs, vpt
from scipy.io import loadmat, savemat

from vision_peft.data import ImageDataset
from vision_peft.data.fgvc import CLASS_COUNTS, FGVC, SIZES

LISTS = {
    "train": {"a/1.jpg": 1, "b/1.jpg": 2},
    "val": {"a/2.jpg": 1, "b/2.jpg": 2},
    "test": {"a/3.jpg": 1, "b/3.jpg": 2},
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniatures have 3 classes, and any number of images is as published."""
    for task in CLASS_COUNTS:
        monkeypatch.setitem(CLASS_COUNTS, task, 3)
        monkeypatch.delitem(SIZES, task)


def load(folder: Path, split: str = "train") -> ImageDataset:
    return FGVC(root=str(folder.parent), task=folder.name).load(split)


def problems(folder: Path, split: str = "train") -> list[str]:
    """The lines of the one error, without the path of the task folder."""
    with pytest.raises(ValueError, match=r"\d+ problems?") as caught:
        load(folder, split)
    head, *lines = str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER").splitlines()
    assert f"{len(lines)} problem" in head
    return [line.strip() for line in lines]


def rewrite(file: Path, **changed: Any) -> None:
    """Saves a MATLAB file once more with some of its variables changed; None leaves one out."""
    content = {name: value for name, value in loadmat(file).items() if not name.startswith("__")} | changed
    savemat(file, {name: value for name, value in content.items() if value is not None})


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "train.json: the file is empty"),
        ("[1, 2]", "train.json: wanted an object of path: class id, got [1, 2]"),
        ("{}", "FOLDER: no image of train"),
        ('{"a/1.jpg": 1,}', "train.json: not readable as json (Expecting property name"),
        ("[" * 100_000, "train.json: not readable as json (maximum recursion"),
        ("<html>", "train.json: not readable as json (Expecting value: line 1 column 1"),
        ('{"a/1.jpg": 1' + "0" * 5000 + "}", "train.json: not readable as json (Exceeds the limit"),
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
    (folder / "train.json").write_text(json.dumps(values)[:-1] + ', "j": NaN, "k": Infinity}')
    wanted = [("c", "-1"), ("d", "1.5"), ("e", "True"), ("f", "None"), ("g", "'two'"), ("h", "[1]")]
    wanted += [("i", "1" + "0" * 18), ("j", "nan"), ("k", "inf")]
    assert problems(folder) == [
        f"train.json: {key!r}: class id {value} is not an integer from 0" for key, value in wanted
    ]


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
        "train.json: 'a/1.jpg': image 'images/a/1.jpg' stands in train.json: 'a/1.jpg' too",
        "test.json: 'a/./1.jpg': image 'images/a/./1.jpg' stands in train.json: 'a/1.jpg' too: train and test overlap",
        "test.json: 'b/2.jpg': image 'images/b/2.jpg' stands in val.json: 'b/2.jpg' too: val and test overlap",
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


def test_a_class_id_without_images_is_warned_of_where_it_can_be_told(tmp_path: Path) -> None:
    lists = {split: {path: {1: 0, 2: 40}[label] for path, label in content.items()} for split, content in LISTS.items()}
    with pytest.warns(UserWarning, match="no image of class id 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and more in train"):
        assert load(vpt(tmp_path / "rocks", lists)).classes == ["a", "b"]


def test_every_bad_line_of_the_bird_lists_is_reported_at_once(tmp_path: Path) -> None:
    folder = cub(tmp_path / "cub").folder
    replace(folder / "images.txt", "2 001", "1 001")
    replace(folder / "images.txt", "\n4 001.Black_footed_Albatross/Black_footed_Albatross_0003_7.jpg\n", "\n4\n")
    replace(folder / "image_class_labels.txt", "\n5 1\n", "\n5 one\n")
    replace(folder / "image_class_labels.txt", "\n6 1\n", "\n6 4\n")
    replace(folder / "image_class_labels.txt", "\n7 1\n", "\n")
    replace(folder / "train_test_split.txt", "\n8 1\n", "\n8 2\n")
    replace(folder / "train_test_split.txt", "\n9 1\n", "\n99 1\n")
    replace(folder / "classes.txt", "3 003", "three 003")
    assert problems(folder) == [
        "images.txt:2: id '1' stands in line 1 already",
        "images.txt:4: wanted '<id> <value>', got '4'",
        "classes.txt:3: class id 'three' is not an integer from 0",
        "image_class_labels.txt:5: class id 'one' is not an integer from 0",
        "image_class_labels.txt:6: class id 4 is not in classes.txt",
        "images.txt:7: image '7' has no line in image_class_labels.txt",
        "train_test_split.txt:8: wanted 1 (train) or 0 (test), got '2'",
        "images.txt:9: image '9' has no line in train_test_split.txt",
        *(f"image_class_labels.txt:{k}: class id 3 is not in classes.txt" for k in range(18, 24)),
        "image_class_labels.txt:2: image '2' is not in images.txt",
        "image_class_labels.txt:4: image '4' is not in images.txt",
        "train_test_split.txt:2: image '2' is not in images.txt",
        "train_test_split.txt:4: image '4' is not in images.txt",
        "train_test_split.txt:9: image '99' is not in images.txt",
        "FOLDER: 2 classes have images in train, wanted 3",
    ]


def test_missing_images_and_lists_of_the_bird_archives_are_named(tmp_path: Path) -> None:
    made = cub(tmp_path / "cub")
    first, *_, last = made.splits["train"]
    (made.folder / first).unlink()
    (made.folder / last).unlink()
    assert problems(made.folder) == [
        f"images.txt:1: image {first!r} is missing",
        f"images.txt:22: image {last!r} is missing",
    ]
    assert len(load(made.folder, "test")) == 6
    (made.folder / "classes.txt").unlink()
    assert load(made.folder, "test").classes == made.classes
    (made.folder / "images.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"images\.txt"):
        load(made.folder)


def test_an_image_that_both_lines_of_the_bird_lists_name_is_an_error(tmp_path: Path) -> None:
    made = cub(tmp_path / "cub")
    first = next(iter(made.splits["train"])).removeprefix("images/")
    test = next(iter(made.splits["test"])).removeprefix("images/")
    replace(made.folder / "images.txt", test, first)
    assert problems(made.folder, "test") == [
        f"images.txt:11: image 'images/{first}' stands in images.txt:1 too: train and test overlap"
    ]


def test_bad_entries_of_the_flower_files_are_reported_at_once(tmp_path: Path) -> None:
    folder = flowers(tmp_path / "flowers").folder
    labels = np.array([[2.0, 3, 1, 1, 2, 3, 3, 2, 1, 4, 0, np.nan]])
    rewrite(folder / "imagelabels.mat", labels=labels)
    rewrite(folder / "setid.mat", trnid=np.array([[2, 3, 5, 5, 13]]), tstid=np.array([[0.5, 0, 2, 10, 11, 12]]))
    assert problems(folder) == [
        "imagelabels.mat: labels(12): nan is not an integer from 0",
        "setid.mat: trnid(5): no image 13: imagelabels.mat has labels for 1 to 12",
        "setid.mat: tstid(1): 0.5 is not an integer from 0",
        "setid.mat: tstid(2): no image 0: imagelabels.mat has labels for 1 to 12",
        "setid.mat: tstid(4): class id 4 is out of range: wanted 1 to 3",
        "setid.mat: tstid(5): class id 0 is out of range: wanted 1 to 3",
        "setid.mat: trnid(4): image 'jpg/image_00005.jpg' stands in setid.mat: trnid(3) too",
        "setid.mat: tstid(3): image 'jpg/image_00002.jpg' stands in setid.mat: trnid(1) too: train and test overlap",
    ]


def test_a_variable_that_is_missing_names_those_there_are(tmp_path: Path) -> None:
    folder = flowers(tmp_path / "flowers").folder
    rewrite(folder / "setid.mat", valid=None, tstid=None)
    with pytest.raises(ValueError, match=r"setid\.mat needs the variable valid, tstid; its variables: trnid$"):
        load(folder)
    (folder / "imagelabels.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*imagelabels\.mat"):
        load(folder)


def test_a_file_of_matlab_7_3_says_how_to_save_it(tmp_path: Path) -> None:
    folder = flowers(tmp_path / "flowers").folder
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    (folder / "setid.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(400))
    with pytest.raises(ValueError, match=r"setid\.mat has MATLAB's format 7\.3 \(HDF5\), .* '-v7'"):
        load(folder)


def test_damaged_matlab_files_are_value_errors_that_name_the_file(tmp_path: Path) -> None:
    folder = dogs(tmp_path / "dogs").folder
    file = folder / "train_list.mat"
    whole = file.read_bytes()
    compressed = tmp_path / "compressed.mat"
    savemat(compressed, {"file_list": loadmat(file)["file_list"]}, do_compression=True)
    packed = compressed.read_bytes()
    damaged = [b"", b"<html>not found</html>" * 20, whole[:100], whole[: len(whole) // 2], packed[: len(packed) // 2]]
    damaged += [whole[:128] + bytes(len(whole) - 128), packed[:150] + b"\xff" * 40 + packed[190:], zlib.compress(whole)]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"train_list\.mat (cannot be read as a MATLAB file|needs the variable)"):
            load(folder)


def test_bad_entries_of_the_dog_lists_are_reported_at_once(tmp_path: Path) -> None:
    made = dogs(tmp_path / "dogs")
    file = made.folder / "train_list.mat"
    names = [path.removeprefix("Images/") for path in made.splits["train"]]
    wrong: list[Any] = [*names[:9], 7.0, np.array(["two", "texts"]), "../../x.jpg"]
    labels = np.array([[1.0] * 4 + [2] * 4 + [3] * 3 + [121]]).T
    rewrite(file, file_list=cell(wrong, column=True), labels=labels)
    found = problems(made.folder)
    assert found[0] == "train_list.mat: file_list(10): wanted a path, got 7.0"
    assert found[1] == "train_list.mat: file_list(11): wanted a path, got ['two  ', 'texts']"
    assert found[2:] == [
        "train_list.mat: file_list(12): class id 121 is out of range: wanted 1 to 3",
        "FOLDER: 4 classes have images in train, wanted 3",
        "train_list.mat: file_list(12): path 'Images/../../x.jpg' leads out of FOLDER",
    ]
    rewrite(file, file_list=cell(names, column=True), labels=labels[:-2])
    assert problems(made.folder) == ["train_list.mat: file_list has 12 entries, labels has 10"]
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no file train_list\.mat \(nor lists/train_list\.mat\)"):
        load(made.folder)


def test_bad_entries_of_the_car_annotations_are_reported_at_once(tmp_path: Path) -> None:
    folder = cars(tmp_path / "cars").folder
    file = folder / "devkit/cars_train_annos.mat"
    classes: list[Any] = [1, 2, 3, 197, "four", np.zeros((0, 0))]
    paths: list[Any] = ["00001.jpg", "00002.jpg", 3, "00004.jpg", "00005.jpg", np.array([])]
    rows = [{**BOX, "class": k, "fname": path} for k, path in zip(classes, paths, strict=True)]
    savemat(file, {"annotations": structs(rows)})
    assert problems(folder, "test") == [
        "devkit/cars_train_annos.mat: annotations(3).fname: wanted a path, got 3",
        "devkit/cars_train_annos.mat: annotations(5).class: 'four' is not an integer from 0",
        "devkit/cars_train_annos.mat: annotations(6).fname: wanted a path, got []",
        "devkit/cars_train_annos.mat: annotations(6).class: [] is not an integer from 0",
        "devkit/cars_train_annos.mat: annotations(4): class id 197 is out of range: wanted 1 to 3",
        "cars_test_annos_withlabels.mat: annotations(3): class id 3 of test has no image in train",
    ]
    rewrite(folder / "devkit/cars_meta.mat", class_names=cell(["Audi", 5.0, "smart"]))
    assert "devkit/cars_meta.mat: class_names(2): wanted a name, got 5.0" in problems(folder, "test")


def test_car_annotations_without_labels_say_which_file_has_them(tmp_path: Path) -> None:
    folder = cars(tmp_path / "cars", test="devkit/cars_test_annos.mat").folder
    assert len(load(folder, "test")) == 3
    savemat(folder / "devkit/cars_test_annos.mat", {"annotations": structs([{**BOX, "fname": "00001.jpg"}])})
    with pytest.raises(ValueError, match=r"needs the field class, it has .*fname; .*_withlabels\.mat"):
        load(folder)
    savemat(folder / "devkit/cars_test_annos.mat", {"annotations": np.zeros((1, 3))})
    with pytest.raises(ValueError, match="needs the field fname, class, it has no fields"):
        load(folder)
    (folder / "devkit/cars_test_annos.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no file devkit/cars_test_annos_withlabels\.mat"):
        load(folder)


def test_a_test_flag_of_the_cars_that_is_neither_is_an_error(tmp_path: Path) -> None:
    folder = joint_cars(tmp_path / "cars").folder
    rows = [{"relative_im_path": f"car_ims/{k:06d}.jpg", "class": k, "test": (0, 0, 0, 2)[k - 1]} for k in (1, 2, 3, 4)]
    rewrite(folder / "cars_annos.mat", annotations=structs(rows))
    assert problems(folder) == [
        "cars_annos.mat: annotations(4).test: wanted 1 (test) or 0 (train), got 2",
        "FOLDER: no image of test",
    ]


def test_a_split_that_has_too_few_images_to_be_divided_is_an_error(tmp_path: Path) -> None:
    folder = vpt(tmp_path / "rocks", {split: LISTS[split] for split in ("train", "test")})
    with pytest.raises(ValueError, match="the split val is empty: every class has too few images"):
        load(folder, "val")
    with pytest.raises(ValueError, match=r"data\.val_fraction .*between 0 and 1, got 1"):
        FGVC(val_fraction=1.0)
