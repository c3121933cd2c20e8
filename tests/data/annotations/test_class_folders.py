"""What is in trees of class folders beside plain images: folders, other files, odd names, videos."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.data.datasets import folder as folder_module
from vision_peft.data.datasets.folder import Folder
from vision_peft.data.decoding.image_dataset import ImageFiles

MakeImage = Callable[..., Path]
Fill = Callable[..., None]


def load(root: Path, split: str, **fields: Any) -> ImageFiles:
    dataset = Folder(root=str(root), **fields).load(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


def test_nested_folders_and_broken_links_are_errors(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=2)
    fill(tmp_path / "train" / "cat", kitten=1)
    (tmp_path / "train" / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "train" / "cat" / "cub" / "deep").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"2 problems") as caught:
        load(tmp_path, "train")
    _, broken, nested = str(caught.value).splitlines()
    assert broken.endswith("gone.jpg: a broken link, or not a regular file")
    assert "2 folders inside class folders (train/cat/" in nested
    assert "data.recursive=true reads the images in them, as of the class whose folder they are in" in nested


def test_folders_inside_class_folders_are_read_where_that_is_wanted(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=2, dog=1)
    fill(tmp_path / "train" / "cat", kitten=2)
    fill(tmp_path / "train" / "cat" / "kitten", tabby=1)
    (tmp_path / "train" / "cat" / "kitten" / "again").symlink_to(tmp_path / "train" / "dog")
    train = load(tmp_path, "trainval", recursive=True)
    names = sorted(str(Path(path).relative_to(tmp_path / "train")) for path in train.paths)
    kittens = ["000.png", "001.png", "again/000.png", "tabby/000.png"]
    assert names == ["cat/000.png", "cat/001.png", *(f"cat/kitten/{name}" for name in kittens), "dog/000.png"]
    assert sorted(train.labels) == [0] * 6 + [1]
    (tmp_path / "train" / "dog" / "up").symlink_to(tmp_path / "train" / "dog")
    with pytest.raises(ValueError, match=r"(?s)2 problems.*dog/up: a link to a folder that it is in"):
        load(tmp_path, "trainval", recursive=True)


def test_what_is_left_out_is_counted_by_extension(tmp_path: Path, fill: Fill, make_image: MakeImage) -> None:
    fill(tmp_path / "train", cat=4, dog=4)
    for number in range(3):
        (tmp_path / "train" / "cat" / f"{number}.txt").touch()
    (tmp_path / "train" / "dog" / ".DS_Store").touch()
    (tmp_path / "train" / "dog" / "notes").write_text("no picture, but longer than sixteen bytes")
    make_image(tmp_path / "train" / "stray.png")
    make_image(tmp_path / "bare.png").rename(tmp_path / "train" / "dog" / "bare")
    with pytest.warns(UserWarning, match="6 files left out") as caught:
        train = load(tmp_path, "trainval")
    text = "left out: 3 .txt, 1 .png beside the class folders, 1 hidden, 1 no extension"
    assert [str(warning.message).partition(" files ")[2] for warning in caught] == [text]
    assert "bare" in {Path(path).name for path in train.paths}
    assert len(train) == 9
    fill(tmp_path / "train", extension="bmp", cat=1, dog=1)
    with pytest.warns(UserWarning, match=r"left out: 8 \.png, "):
        assert len(load(tmp_path, "trainval", leave_out=(".PNG",))) == 3


def test_images_that_cannot_be_read_here_are_an_error_unless_they_are_left_out(
    tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        folder_module,
        "IMAGES",
        folder_module.IMAGES._replace(missing={".heic": "pillow-heif", ".jxl": "pillow-jxl-plugin"}),
    )
    fill(tmp_path / "train", cat=4, dog=4)
    for name in ("cat/1.heic", "cat/2.HEIC", "dog/3.jxl"):
        (tmp_path / "train" / name).touch()
    with pytest.raises(ValueError, match="1 problem") as caught:
        load(tmp_path, "trainval")
    advice = (
        "pip install pillow-heif pillow-jxl-plugin, convert them, or leave them out with data.leave_out=[.heic,.jxl]"
    )
    assert str(caught.value).endswith(f"2 .heic, 1 .jxl cannot be read here: {advice}")
    with pytest.warns(UserWarning, match=r"3 files left out: 2 \.heic, 1 \.jxl$"):
        assert len(load(tmp_path, "trainval", leave_out=(".heic", ".jxl"))) == 8
    with pytest.raises(ValueError, match=r"lists extensions such as \.heic, got 'heic'"):
        Folder(leave_out=("heic",))


def test_two_spellings_of_a_class_are_one_with_a_warning(tmp_path: Path, fill: Fill) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train", **{composed: 2, decomposed: 3, "dog": 1})
    fill(tmp_path / "val", **{decomposed: 1})
    with pytest.warns(UserWarning, match=f"Unicode spelling alone are one class: {composed}"):
        train = load(tmp_path, "train")
    assert (train.classes, list(train.labels)) == ([composed, "dog"], [0] * 5 + [1])
    with pytest.warns(UserWarning, match="are one class"):
        assert list(load(tmp_path, "val").labels) == [0]


def test_two_spellings_of_a_class_in_two_splits_are_one_with_a_warning(tmp_path: Path, fill: Fill) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train", **{decomposed: 2, "dog": 1})
    fill(tmp_path / "val", **{composed: 1, "dog": 1})
    with pytest.warns(UserWarning, match=f"Unicode spelling alone are one class: {composed}"):
        assert list(load(tmp_path, "val").labels) == [0, 1]


def test_two_spellings_of_a_file_name_are_a_warning(tmp_path: Path, make_image: MakeImage) -> None:
    for name in ("e\u0301.png", "\u00e9.png", "1.png", "2.png"):
        make_image(tmp_path / "train" / "cat" / name)
    with pytest.warns(UserWarning, match="files whose names differ in their Unicode spelling alone: \u00e9.png"):
        assert len(load(tmp_path, "trainval")) == 4


def test_names_that_are_not_utf8_are_refused_with_the_bytes(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=2, dog=2)
    for name in (b"caf\xe9.png", b"\xff\x1b[31m.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "train" / "cat") + b"/" + name)).write_bytes(b"damaged")
    Path(os.fsdecode(os.fsencode(tmp_path / "train") + b"/\xe9mu")).mkdir()
    with pytest.raises(ValueError, match="2 problems") as caught:
        load(tmp_path, "train")
    text = str(caught.value)
    assert text.isprintable() or text.replace("\n", "").isprintable()
    assert r"train: 1 folder name is not UTF-8 ('\xe9mu'): rename it" in text
    assert (
        r"cat: 2 file names are not UTF-8 ('caf\xe9.png', '\xff\x1b[31m.png')" in text
        or r"'\xff\x1b[31m.png', 'caf\xe9.png'" in text
    )


def test_a_root_that_is_not_utf8_is_refused_with_its_bytes(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    root.mkdir()
    with pytest.raises(ValueError, match=r"/caf\\udce9': a folder whose name is not UTF-8; rename it"):
        load(root, "train")


def test_a_tree_of_videos_is_pointed_to_their_reader(tmp_path: Path, fill: Fill) -> None:
    for name in ("cat/1.mp4", "cat/2.mp4", "dog/3.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="1 problem") as caught:
        load(tmp_path, "train")
    assert "no images in the class folders, but 2 .mp4, 1 .avi: data=video_folder backbone.num_frames=8" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (["labels.csv"], "data.train=labels.csv data.test_fraction=0.2"),
        (["train.tsv", "valid.tsv", "notes.csv"], "data.train=train.tsv data.val=valid.tsv data.test_fraction=0.2"),
        (["train_labels.csv", "test_labels.csv"], "data.train=train_labels.csv data.test=test_labels.csv"),
    ],
)
def test_labels_in_a_list_are_pointed_to_its_reader(tmp_path: Path, fill: Fill, lists: list[str], words: str) -> None:
    for name in lists:
        (tmp_path / name).write_text("path,label\n")
    advice = f"; the labels may be in a list: data=list data.root={tmp_path} {words}"
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: no class folders in it{advice}") + "$"):
        load(tmp_path, "train")
    fill(tmp_path, images=20)
    with pytest.warns(UserWarning, match=re.escape(f"{tmp_path}: one class folder, images{advice}") + "$"):
        load(tmp_path, "train")
    fill(tmp_path, others=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, "train")


def test_the_tree_is_scanned_once_for_all_splits(tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "train", cat=20, dog=20)
    fill(tmp_path / "test", cat=2, dog=2)
    real, scanned = os.scandir, Counter()
    monkeypatch.setattr(os, "scandir", lambda path: scanned.update([str(path)]) or real(path))
    open_split = Folder(root=str(tmp_path)).open_splits()
    splits = {split: open_split(split) for split in ("train", "val", "trainval", "test")}
    assert len(splits["train"]) + len(splits["val"]) == len(splits["trainval"]) == 40
    assert {scanned[str(tmp_path / "train" / name)] for name in ("cat", "dog")} == {1}


def test_what_is_sound_can_be_read_in_spite_of_problems(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=20)
    fill(tmp_path / "train" / "cat", kitten=2)
    problems: list[str] = []
    assert len(Folder(root=str(tmp_path)).open_splits(problems)("trainval")) == 20
    assert len(problems) == 1


@pytest.mark.parametrize("names", [("Train", "Valid", "TEST"), ("training", "validation", "testing")])
def test_split_folders_are_known_by_every_name(
    tmp_path: Path, fill: Callable[..., None], names: tuple[str, ...]
) -> None:
    for name, count in zip(names, (3, 2, 1), strict=True):
        fill(tmp_path / name, ant=count, bee=count)
    for recursive in (False, True):  # with it, the folders of the splits were the classes
        load = Folder(root=str(tmp_path), recursive=recursive).open_splits()
        assert {split: len(load(split)) for split in ("train", "val", "test")} == {"train": 6, "val": 4, "test": 2}
        assert load("test").classes == ["ant", "bee"]


def test_folders_that_look_like_splits_are_neither_classes_nor_lost(tmp_path: Path, fill: Callable[..., None]) -> None:
    fill(tmp_path / "years" / "train2017", ant=2, bee=2)
    fill(tmp_path / "years" / "val2017", ant=2, bee=2)
    fill(tmp_path / "late" / "train", ant=2, bee=2)
    fill(tmp_path / "late" / "holdout", ant=2, bee=2)
    fill(tmp_path / "flat", Train=3, Test=3)
    for name, words in (
        ("years", "holds train2017, val2017, which look like splits"),
        ("late", "holds holdout, which looks like a split"),
        ("flat", "holds Test and Train, and no class folders in them"),
    ):
        with pytest.raises(ValueError, match=words):
            Folder(root=str(tmp_path / name), recursive=True).open_splits()
