"""Class-folder trees, split by folders or by seed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.data.datasets.folder import Folder
from vision_peft.data.decoding.image_dataset import ImageFiles

MakeImage = Callable[..., Path]


def load(root: Path, split: str, **fields: Any) -> ImageFiles:
    dataset = Folder(root=str(root), **fields).load(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


Fill = Callable[..., None]


def test_split_folders_are_read_in_sorted_order(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", dog=2, cat=3)
    fill(tmp_path / "val", cat=1, dog=1)
    fill(tmp_path / "test", dog=2)
    train = load(tmp_path, "train")
    assert train.classes == ["cat", "dog"]
    assert train.labels == [0, 0, 0, 1, 1]
    assert train.paths == sorted(train.paths)
    assert load(tmp_path, "val").labels == [0, 1]
    assert load(tmp_path, "test").labels == [1, 1]
    assert load(tmp_path, "trainval").paths == train.paths + load(tmp_path, "val").paths
    assert train[0][0].mode == "RGB"


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_val_are_known(tmp_path: Path, fill: Fill, name: str) -> None:
    fill(tmp_path / "train", cat=2, dog=2)
    fill(tmp_path / name, cat=1)
    assert load(tmp_path, "val").paths == [str(tmp_path / name / "cat" / "000.png")]
    fill(tmp_path / "val", cat=1)
    with pytest.raises(ValueError, match=f"val and {name}"):
        load(tmp_path, "val")


def test_without_val_a_share_of_train_is_drawn_by_the_seed(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=40, dog=80, fox=1)
    fill(tmp_path / "test", cat=1)
    with pytest.warns(UserWarning, match=r"val is drawn by name and got nothing of 1 of 3 classes \(fox\)"):
        train, val = load(tmp_path, "train"), load(tmp_path, "val")
    assert 5 <= len(val) <= 20
    assert Counter(train.labels)[2] == 1
    assert len(train) + len(val) == 121
    assert not set(train.paths) & set(val.paths)
    assert sorted(load(tmp_path, "trainval").paths) == sorted(train.paths + val.paths)
    assert load(tmp_path, "val").paths == val.paths
    assert load(tmp_path, "val", seed=1).paths != val.paths
    assert set(load(tmp_path, "val", val_fraction=0.5).paths) > set(val.paths)


def test_classes_directly_in_the_root_are_split_in_three(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, cat=60, dog=40)
    parts = {split: load(tmp_path, split) for split in ("train", "val", "test")}
    paths = [path for part in parts.values() for path in part.paths]
    assert len(set(paths)) == len(paths) == 100
    assert len(parts["val"]) < len(parts["test"]) < len(parts["train"])
    assert {part.classes == ["cat", "dog"] for part in parts.values()} == {True}


def name_parts(root: Path) -> dict[str, str]:
    parts = {split: load(root, split) for split in ("train", "val", "test")}
    return {str(Path(path).relative_to(root)): split for split, part in parts.items() for path in part.paths}


def test_a_file_that_comes_goes_or_is_renamed_moves_no_other_between_the_splits(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, cat=60, dog=40)
    before = name_parts(tmp_path)
    (tmp_path / "cat" / "007.png").unlink()
    (tmp_path / "dog" / "003.png").rename(tmp_path / "dog" / "extra.png")
    fill(tmp_path, ant=30)  # a class, so that all others get another label
    after = name_parts(tmp_path)
    gone = {"cat/007.png", "dog/003.png"}
    assert before.keys() - after.keys() == gone
    assert {name: after[name] for name in before if name not in gone} == {
        name: part for name, part in before.items() if name not in gone
    }


def test_the_splits_are_the_same_wherever_the_tree_is(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "here", cat=30, dog=30)
    before = name_parts(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert name_parts(tmp_path / "there") == before


def test_a_class_named_train_is_a_class_when_images_lie_in_it(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, bus=10, train=10)
    assert load(tmp_path, "train").classes == ["bus", "train"]


def test_a_class_that_only_test_has_is_an_error(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=2, dog=2)
    fill(tmp_path / "test", cat=1, emu=1)
    with pytest.raises(ValueError, match="class 'emu' is not among the 2 classes of train"):
        load(tmp_path, "train")


def test_other_files_are_skipped_and_counted_where_nothing_is_left(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=2, dog=2)
    for name in (".DS_Store", "Thumbs.db", "readme.txt"):
        (tmp_path / "train" / "cat" / name).touch()
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert sorted(load(tmp_path, "trainval").labels) == [0, 0, 1, 1]
    (tmp_path / "train" / "emu").mkdir()
    for name in (".hidden.png", "a.txt", "b.txt", "c"):
        (tmp_path / "train" / "emu" / name).touch()
    (tmp_path / "train" / "fox").mkdir()
    with pytest.raises(ValueError, match="2 problems") as caught:
        load(tmp_path, "train")
    assert "emu: no images in this class folder (skipped: 2 .txt, 1 hidden, 1 no extension)" in str(caught.value)
    assert "fox: no images in this class folder" in str(caught.value)


def test_extensions_count_in_any_case(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", extension="JPG", cat=2)
    fill(tmp_path / "train", extension="Png", dog=1)
    assert sorted(load(tmp_path, "trainval").labels) == [0, 0, 1]


def test_links_to_images_are_followed(tmp_path: Path, fill: Fill, make_image: MakeImage) -> None:
    fill(tmp_path / "tree" / "train", cat=1)
    target = make_image(tmp_path / "store" / "1.png")
    (tmp_path / "tree" / "train" / "cat" / "link.png").symlink_to(target)
    assert len(load(tmp_path / "tree", "trainval")) == 2


def test_a_tree_without_classes_train_or_test_says_what_is_missing(tmp_path: Path, fill: Fill) -> None:
    with pytest.raises(ValueError, match="no class folders"):
        load(tmp_path, "train")
    fill(tmp_path / "test", cat=1)
    with pytest.raises(FileNotFoundError, match="no folder train"):
        load(tmp_path, "train")
    fill(tmp_path / "train", cat=4)
    (tmp_path / "test").rename(tmp_path / "unlabelled")
    with pytest.warns(UserWarning, match="ignored unlabelled"):
        load(tmp_path, "train")
    with pytest.warns(UserWarning, match="ignored"), pytest.raises(FileNotFoundError, match="no folder test"):
        load(tmp_path, "test")


def test_a_split_that_would_be_empty_is_an_error(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "train", cat=1, dog=1)
    assert len(load(tmp_path, "train")) == 2
    with pytest.raises(ValueError, match="split val is empty"):
        load(tmp_path, "val")


@pytest.mark.parametrize("fields", [{"val_fraction": 0.0}, {"test_fraction": 1.0}, {"val_fraction": -0.1}])
def test_fractions_are_shares(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="share of the images"):
        Folder(**fields)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"add up to 1\.1"):
        Folder(val_fraction=0.6, test_fraction=0.5)
