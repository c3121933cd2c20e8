"""Folders and lists of splits of images with masks: under all their names, and nothing is left out without a word."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.mask_files import halves, write_depths, write_image, write_mask, write_set

from vision_peft.data.datasets.depth import Depth
from vision_peft.data.datasets.segmentation import Segmentation

SIZES = {"train": 4, "val": 3, "test": 2}


def write_parts(root: Path, names: Sequence[str], around: bool, masks: Mapping[str, str] | None = None) -> Path:
    """Write a folder of images and masks for each of train, val and test under `names`."""
    for name, count in zip(names, SIZES.values(), strict=False):
        for number in range(count):
            masked = (masks or {}).get(name, name)
            places = (f"{name}/images", f"{name}/masks") if around else (f"images/{name}", f"masks/{masked}")
            write_image(root / places[0] / f"{name}{number}.png")
            write_mask(root / places[1] / f"{name}{number}.png", halves())
    (root / "classes.txt").write_text("land\nwater\n")
    return root


def count(root: Path) -> dict[str, int]:
    """Count the items of every split, where nothing is to be warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load = Segmentation(root=str(root)).open_splits()
        return {split: len(load(split)) for split in SIZES}


@pytest.mark.parametrize("around", [True, False])
@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("train", "valid", "test"), ("Training", "Validation", "Testing")]
)
def test_folders_of_splits_are_read_under_every_name(tmp_path, around, names):
    assert count(write_parts(tmp_path, names, around)) == SIZES


def test_masks_may_have_another_name_of_the_split(tmp_path):
    names = ("Train", "valid", "test")
    assert count(write_parts(tmp_path, names, False, {"Train": "train", "valid": "Val"})) == SIZES


def test_depths_have_the_same_folders(tmp_path):
    write_depths(tmp_path, {"train": 3})
    for kind in ("images", "depth"):
        (tmp_path / kind).rename(tmp_path / "Train")
        (tmp_path / kind).mkdir()
        (tmp_path / "Train").rename(tmp_path / kind / "Train")
    (tmp_path / "splits" / "train.txt").unlink()
    assert len(Depth(root=str(tmp_path), val_fraction=0.5).load("trainval")) == 3


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "VAL", "testing")])
def test_lists_are_read_under_every_name(tmp_path, names):
    root = write_set(tmp_path, SIZES)
    for split, name in zip(SIZES, names, strict=True):
        (root / "splits" / f"{split}.txt").rename(root / "splits" / f"{name}.txt")
    assert count(root) == SIZES


@pytest.mark.parametrize("around", [True, False])
@pytest.mark.parametrize("names", [("train2017", "val2017"), ("train", "val", "eval"), ("train", "dev set", "test")])
def test_folders_that_look_like_splits_are_not_lost(tmp_path, around, names):
    write_parts(tmp_path, names, around)
    with pytest.raises(ValueError, match=r"which looks? like .*split.* and would not be read as (such|one): call"):
        Segmentation(root=str(tmp_path)).open_splits()


def test_a_list_that_looks_like_a_split_is_not_lost(tmp_path):
    root = write_set(tmp_path, SIZES)
    (root / "splits" / "val.txt").rename(root / "splits" / "development.txt")
    with pytest.raises(ValueError, match="splits holds development, which looks like a split"):
        Segmentation(root=str(root)).open_splits()


def test_what_lies_beside_the_splits_is_named(tmp_path):
    inside, around, lists = tmp_path / "inside", tmp_path / "around", write_set(tmp_path / "lists", SIZES)
    write_parts(inside, ("train", "val", "test"), False)
    write_image(inside / "images" / "site" / "a.png")
    write_image(inside / "images" / "b.png")
    write_parts(around, ("train", "val", "test"), True)
    write_image(around / "images" / "a.png")
    (lists / "splits" / "trainval.txt").write_text("000\n")
    for root, words in (
        (inside, "images: read train, val, test; ignored site, 1 .png beside them"),
        (around, "around: read train, val, test; ignored images"),
        (lists, "splits: read train.txt, val.txt, test.txt; ignored trainval.txt"),
    ):
        with pytest.warns(UserWarning, match=words):
            load = Segmentation(root=str(root)).open_splits()
        assert {split: len(load(split)) for split in SIZES} == SIZES
