"""Folders of images with masks: what is found, what the values stand for, and all that can be wrong at once."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.mask_files import halves, write_depths, write_image, write_mask, write_set

from vision_peft.data.datasets.depth import Depth
from vision_peft.data.datasets.segmentation import Segmentation
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.mask_dataset import MaskFiles, list_mask_problems

SPLITS = {"train": 3, "val": 2, "test": 1}


def load(root: Path, split: str = "train", **fields: object) -> MaskFiles:
    dataset = Segmentation(root=str(root), **fields).load(split)  # pyright: ignore[reportArgumentType]
    assert isinstance(dataset, MaskFiles)
    return dataset


def test_lists_give_the_splits(tmp_path):
    root = write_set(tmp_path, SPLITS)
    counts = {split: len(load(root, split)) for split in ("train", "val", "trainval", "test")}
    assert counts == {"train": 3, "val": 2, "trainval": 5, "test": 1}
    train = load(root)
    assert train.classes == ["land", "water"]
    assert train.targets is not None
    assert train.targets.kind == "segmentation"
    image, mask = train[1]
    assert image.size == (16, 12)
    assert np.array_equal(mask, np.roll(halves(), 1, 1))
    assert train.count_labels() == [3 * 96, 3 * 96]
    assert train.palette()[1] == (200, 0, 0)  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("inside", [True, False])
def test_folders_give_the_splits(tmp_path, inside):
    for number, split in enumerate(("train", "train", "val", "test")):
        place = (f"{split}/images", f"{split}/masks") if inside else (f"images/{split}", f"masks/{split}")
        write_image(tmp_path / place[0] / f"{number}.png")
        write_mask(tmp_path / place[1] / f"{number}_mask.png", halves())
    (tmp_path / "classes.txt").write_text("a\nb\n")
    found = {split: len(load(tmp_path, split, mask_suffix="_mask")) for split in ("train", "val", "test")}
    assert found == {"train": 2, "val": 1, "test": 1}


def test_without_lists_splits_are_drawn_by_name_and_do_not_overlap(tmp_path):
    root = write_set(tmp_path, {"train": 40})
    (root / "splits" / "train.txt").unlink()
    found = {split: {*load(root, split).paths} for split in ("train", "val", "test")}
    assert sum(map(len, found.values())) == 40
    assert len(found["train"] | found["val"] | found["test"]) == 40
    assert all(found.values())
    write_image(root / "images" / "new.jpg")
    write_mask(root / "masks" / "new.png", halves())
    assert found["test"] <= {*load(root, "test").paths}


def test_names_of_values_say_what_they_stand_for(tmp_path):
    root = write_set(tmp_path, {"train": 1, "val": 1})
    mask = np.array([[7, 8, 9, 0]] * 12, np.uint8).repeat(4, 1)
    write_mask(root / "masks" / "000.png", mask)
    (root / "classes.txt").unlink()
    train = load(root, values={7: "road", "8": "path", 9: "road", 0: "ignore"})
    assert train.classes == ["road", "path"]
    assert train.mask(0)[0].tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [255] * 4
    again = Segmentation(root=str(root), values=[["7", "road"], ["8", "path"], ["9", "road"], ["0", "ignore"]])
    assert again.load("train").classes == train.classes  # as config.yaml of a run has it


def test_colours_are_values(tmp_path):
    root = write_set(tmp_path, {"train": 1, "val": 1})
    colours = np.zeros((12, 16, 3), np.uint8)
    colours[:, 8:] = (0, 0, 142)
    write_mask(root / "masks" / "000.png", colours)
    train = load(root, values={"0/0/0": "land", "#00008e": "water"})
    assert np.array_equal(train.mask(0), halves())
    with pytest.raises(ImageDecodeError, match=r"colour 0,0,142 \(96 pixels\) in the mask stand for no class"):
        load(root, values={"0,0,0": "land", "1,1,1": "water"}).mask(0)


def test_a_grey_mask_that_was_saved_as_colours_is_one_of_numbers(tmp_path):
    root = write_set(tmp_path, {"train": 1, "val": 1})
    write_mask(root / "masks" / "000.png", np.stack([halves()] * 3, -1))
    assert np.array_equal(load(root).mask(0), halves())


def test_every_problem_of_names_is_said_at_once(tmp_path):
    root = write_set(tmp_path, SPLITS)
    (root / "masks" / "001.png").unlink()
    (root / "splits" / "val.txt").write_text("003\n0044\n000\n003\n")
    with pytest.raises(ValueError, match="4 problems") as error:
        load(root)
    text = str(error.value)
    assert re.search(r"val.txt:2: there is no image '0044' \(did you mean 00\d\?\)", text)
    assert "val.txt:4: '003' is listed already" in text
    assert f"{root}/images/001.jpg: its mask is missing in {root}/masks" in text
    assert "000.jpg is in train and in val" in text


def test_every_problem_of_masks_is_said_at_once(tmp_path):
    root = write_set(tmp_path, SPLITS)
    write_mask(root / "masks" / "000.png", halves((15, 12)))
    odd = halves()
    odd[0, :3], odd[1, :2] = 9, 200
    write_mask(root / "masks" / "001.png", odd)
    write_mask(root / "masks" / "003.png", np.full((12, 16), 255, np.uint8))
    splits = {split: load(root, split) for split in SPLITS}
    problems = [*list_mask_problems(splits)]
    assert problems == [
        f"train: {root}/masks/000.png: the mask has 15 x 12 pixels, {root}/images/000.jpg 16 x 12",
        f"train: {root}/masks/001.png: 9 (3 pixels), 200 (2 pixels) in the mask stand for no class: wanted 0 to 1 for "
        "the classes in their order, 255 for no class",
        f"val: {root}/masks/003.png: no pixel of the mask counts, all are to be ignored",
    ]


def test_a_class_that_training_never_sees_is_named(tmp_path):
    root = write_set(tmp_path, SPLITS, classes="land\nwater\nice\n")
    splits = {split: load(root, split) for split in SPLITS}
    with pytest.warns(UserWarning, match="no pixel of the training masks belongs to 1 of 3 classes: ice"):
        assert [*list_mask_problems(splits)] == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"x": "road"}, "'x' is not a value of a mask"),
        ({7: "a", "07": "b"}, "'07' stands there twice"),
        ({7: "rode"}, r"'rode' is not a class"),
        ({"1,2,300": "a"}, "is not a value of a mask"),
        ("road", "must be keys and values"),
    ],
)
def test_values_that_are_none_are_refused(tmp_path, values, words):
    root = write_set(tmp_path, SPLITS)
    with pytest.raises(ValueError, match=words):
        load(root, values=values)


def test_without_names_of_classes_both_ways_out_are_said(tmp_path):
    root = write_set(tmp_path, SPLITS)
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt.*data\.values="):
        load(root)
    with pytest.raises(FileNotFoundError, match=r"data\.classes=names\.txt"):
        load(root, classes="names.txt")


def test_missing_folders_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder .*masks: wanted .*data\.images and data\.masks"):
        load(tmp_path)


def test_masks_without_an_image_are_left_out_with_a_warning(tmp_path):
    root = write_set(tmp_path, SPLITS)
    write_mask(root / "masks" / "extra.png", halves())
    with pytest.warns(UserWarning, match="1 mask of no image are left out: extra"):
        assert len(load(root)) == 3


def test_data_json_sees_that_another_mask_took_the_place(tmp_path):
    root = write_set(tmp_path, SPLITS)
    before = [load(root).recorded_label(item) for item in range(3)]
    write_mask(root / "masks" / "001.png", np.random.default_rng(0).integers(0, 2, (12, 16), dtype=np.uint8))
    after = [load(root).recorded_label(item) for item in range(3)]
    assert [one != other for one, other in zip(before, after, strict=True)] == [False, True, False]


def test_depths_are_metres_and_0_where_there_is_none(tmp_path):
    root = write_depths(tmp_path, SPLITS)
    dataset = Depth(root=str(root)).load("train")
    assert isinstance(dataset, MaskFiles)
    depths = dataset.mask(0)
    assert depths.dtype == np.float32
    assert depths[0, 0] == 0
    assert abs(depths[-1, -1] - 3.0) < 1e-6
    assert dataset.count_labels() == [3 * (192 - 4)]
    assert dataset.targets is not None
    assert (dataset.targets.kind, dataset.targets.unit) == ("depth", "m")
    write_mask(root / "depth" / "001.png", np.zeros((12, 16), np.uint16))
    write_mask(root / "depth" / "002.png", np.full((12, 16, 3), 9, np.uint8))
    splits = {"train": Depth(root=str(root)).load("train")}
    first, second = list_mask_problems(splits)
    assert "no pixel of the mask counts" in first
    assert "wanted one number for each pixel" in second


def test_kept_items_are_those_that_are_read(tmp_path):
    from vision_peft.data.decoding.pixel_store import Store

    root = write_set(tmp_path, SPLITS)
    settings = {"size": (8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "resize": "squash"}
    plain, kept = load(root), load(root)
    for dataset in (plain, kept):
        dataset.set_training(settings, "none", 0.0)
    assert kept.decoded_size() == 3 * (3 * 64 + 192)
    kept.keep_in(Store(10**6))
    kept.prepare()
    (root / "masks" / "000.png").unlink()
    (root / "images" / "000.jpg").unlink()
    image, mask = kept[0]
    assert image.shape == (3, 8, 8)
    assert mask.shape == (8, 8)
    for one, other in zip(plain[1], kept[1], strict=True):
        assert one.equal(other)


def test_check_data_lists_what_is_wrong_with_masks(tmp_path):
    from vision_peft.data.check.check import check_tasks

    root = write_set(tmp_path, SPLITS)
    write_mask(root / "masks" / "004.png", halves((15, 12)))
    (report,) = check_tasks(Segmentation(root=str(root)), 1)
    assert [finding.text for finding in report.findings] == [
        f"{root}/masks/004.png: the mask has 15 x 12 pixels, {root}/images/004.jpg 16 x 12"
    ]
    (report,) = check_tasks(Depth(root=str(write_depths(tmp_path / "depths", SPLITS))), 1)
    assert report.findings == []
