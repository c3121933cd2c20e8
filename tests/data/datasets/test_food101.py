"""Food-101 in its official layout, read from the json lists or the text lists."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.data.datasets import food101
from vision_peft.data.datasets.food101 import Food101
from vision_peft.data.decoding.image_dataset import ImageFiles

MakeImage = Callable[..., Path]
# As in the official lists the ids of a class are in no order, nor need the classes be.
TRAIN = {"waffles": [91, 17, *range(30, 38)], "apple_pie": [5, 3, *range(60, 68)], "beet_salad": list(range(10))}
TEST = {"waffles": [4], "apple_pie": [7, 2], "beet_salad": [99]}


@pytest.fixture
def root(tmp_path: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(food101, "NUM_CLASSES", 3)
    monkeypatch.setattr(food101, "NUM_IMAGES", {"train": 30, "test": 4})
    for split, groups in {"train": TRAIN, "test": TEST}.items():
        lists = {group: [f"{group}/{number}" for number in numbers] for group, numbers in groups.items()}
        for path in (path for paths in lists.values() for path in paths):
            make_image(tmp_path / "food-101" / "images" / f"{path}.jpg")
        write(tmp_path, split, lists)
    return tmp_path


def write(root: Path, split: str, lists: Any) -> None:
    meta = root / "food-101" / "meta"
    meta.mkdir(exist_ok=True)
    (meta / f"{split}.json").write_text(json.dumps(lists))
    if isinstance(lists, dict):
        (meta / f"{split}.txt").write_text("".join(f"{path}\n" for paths in lists.values() for path in paths))


def read(root: Path, split: str) -> dict[str, list[str]]:
    return json.loads((root / "food-101" / "meta" / f"{split}.json").read_text())


def load(root: Path, split: str, **fields: Any) -> ImageFiles:
    dataset = Food101(root=str(root), **fields).load(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


def names(dataset: ImageFiles) -> list[str]:
    return ["/".join(Path(path).parts[-2:]) for path in dataset.paths]


def test_trainval_and_test_are_the_official_halves_in_their_order(root: Path) -> None:
    trainval, test = load(root, "trainval"), load(root, "test")
    assert trainval.classes == test.classes == ["apple_pie", "beet_salad", "waffles"]
    assert trainval.labels == [2] * 10 + [0] * 10 + [1] * 10
    assert names(trainval)[:2] == ["waffles/91.jpg", "waffles/17.jpg"]
    assert names(test) == ["waffles/4.jpg", "apple_pie/7.jpg", "apple_pie/2.jpg", "beet_salad/99.jpg"]
    assert test.labels == [2, 0, 0, 1]
    assert test[1][0].mode == "RGB"


def test_the_text_lists_are_read_where_the_json_is_absent(root: Path) -> None:
    expected = {split: (load(root, split).paths, load(root, split).labels) for split in ("train", "val", "test")}
    for file in (root / "food-101" / "meta").glob("*.json"):
        file.unlink()
    for split, (paths, labels) in expected.items():
        assert (load(root, split).paths, load(root, split).labels) == (paths, labels)
    (root / "food-101" / "meta" / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither test\.json nor test\.txt: unpack http.*data\.download=true"):
        load(root, "train")


def test_val_is_a_share_of_every_class_of_train(root: Path) -> None:
    train, val, trainval = (load(root, split) for split in ("train", "val", "trainval"))
    assert Counter(val.labels) == {0: 1, 1: 1, 2: 1}
    assert Counter(load(root, "val", val_fraction=0.4).labels) == {0: 4, 1: 4, 2: 4}
    assert not set(train.paths) & set(val.paths)
    assert set(train.paths) | set(val.paths) == set(trainval.paths)
    assert load(root, "val").paths == val.paths
    assert load(root, "val", seed=1).paths != val.paths


def test_adaptformers_tree_is_found_from_its_top(root: Path) -> None:
    (root / "food101").mkdir()
    (root / "food-101").rename(root / "food101" / "food-101")
    assert load(root, "test").labels == load(root / "food101", "test").labels == [2, 0, 0, 1]


def test_missing_folders_are_named_with_both_ways_out(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"they are below {root}: give data\.root={root}\)"):
        load(root / "food-101", "train")
    (root / "food-101" / "images").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"missing: food-101/images\. .*food-101\.tar\.gz.*data\.download=true"):
        load(root, "train")


def test_a_download_that_fails_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def archive(url: str, download_root: str, md5: str) -> None:
        raise OSError(f"no network for {url} {md5}")

    monkeypatch.setattr("torchvision.datasets.food101.download_and_extract_archive", archive)
    md5 = "85eeb15f3717b99a5da872d97d918f87"
    with pytest.raises(ConnectionError, match=rf"no network for http\S+ {md5}; .*food-101/images, food-101/meta"):
        load(tmp_path, "train", download=True)


def test_an_unpacked_archive_is_read_after_the_download(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def archive(url: str, download_root: str, md5: str) -> None:
        (root / "food-101").rename(Path(download_root) / "food-101")

    monkeypatch.setattr("torchvision.datasets.food101.download_and_extract_archive", archive)
    (tmp_path / "empty").mkdir()
    assert load(tmp_path / "empty", "test", download=True).labels == [2, 0, 0, 1]


def test_missing_images_are_reported_all_at_once(root: Path) -> None:
    for path in ("waffles/91", "apple_pie/5", "beet_salad/99"):
        (root / "food-101" / "images" / f"{path}.jpg").unlink()
    with pytest.raises(ValueError, match="split trainval: 2 problems") as caught:
        load(root, "trainval")
    assert "train.json: class 'waffles', image 1: image 'waffles/91.jpg' is missing" in str(caught.value)
    with pytest.raises(ValueError, match=r"test\.json: class 'beet_salad', image 1: image 'beet_salad/99\.jpg'"):
        load(root, "test")


def test_bad_entries_are_reported_all_at_once(root: Path) -> None:
    train, test = read(root, "train"), read(root, "test")
    train["waffles"] += ["waffles/91", "apple_pie/3", "../secret", "/etc/passwd", "waffles", "waffles/a/b"]
    test["waffels"] = ["waffels/1"]
    test["beet_salad"].append("beet_salad/3")
    write(root, "train", train)
    write(root, "test", {**test, "apple_pie": "apple_pie/7"})
    with pytest.raises(ValueError, match="9 problems") as caught:
        load(root, "val")
    for text in (
        "train.json: class 'waffles', image 11: image 'waffles/91' is listed already: ",
        "train.json: class 'waffles', image 12: image 'apple_pie/3' is one of class 'apple_pie'",
        "train.json: class 'waffles', image 13: wanted '<class>/<id>', got '../secret'",
        "train.json: class 'waffles', image 14: wanted '<class>/<id>', got '/etc/passwd'",
        "train.json: class 'waffles', image 15: wanted '<class>/<id>', got 'waffles'",
        "train.json: class 'waffles', image 16: wanted '<class>/<id>', got 'waffles/a/b'",
        "test.json: class 'waffels' is not among the 3 classes of train (did you mean waffles?)",
        "test.json: class 'beet_salad', image 2: image 'beet_salad/3' is listed already: ",
        "test.json: class 'apple_pie': wanted a list",
    ):
        assert text.split(": ", 1)[1] in str(caught.value), text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("<html>", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('["waffles/1"]', "wanted an object of classes"),
        ("{}", "wanted an object of classes"),
        ('{"waffles": [1]}', "class 'waffles': wanted a list"),
    ],
)
def test_a_list_that_is_none_is_an_error(root: Path, text: str, message: str) -> None:
    (root / "food-101" / "meta" / "test.json").write_text(text)
    with pytest.raises(ValueError, match=rf"test\.json: {message}"):
        load(root, "train")


def test_links_out_of_the_images_are_refused(root: Path, tmp_path: Path, make_image: MakeImage) -> None:
    path = root / "food-101" / "images" / "waffles" / "4.jpg"
    path.unlink()
    path.symlink_to(make_image(tmp_path / "secret.jpg"))
    with pytest.raises(ValueError, match=r"'waffles/4\.jpg' leads out of"):
        load(root, "test")


def test_another_number_of_classes_is_an_error_and_of_images_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(food101, "NUM_IMAGES", {"train": 75_750, "test": 4})
    load(root, "test")
    with pytest.warns(UserWarning, match=r"train\.json: 30 images, Food-101 has 75,750"):
        load(root, "train")
    monkeypatch.setattr(food101, "NUM_CLASSES", 101)
    with pytest.raises(ValueError, match=r"3 classes, Food-101 has 101; .*data=folder or data=list"):
        load(root, "test")


def test_the_fraction_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"data\.val_fraction must be between 0 and 1"):
        Food101(val_fraction=0)
