"""Class folders and lists of images with bands: stacks, what types files have, pictures, kept images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.band_images import write_bands

from vision_peft.data.check.check import check_tasks
from vision_peft.data.check.report import summarise, to_json
from vision_peft.data.datasets.folder import Folder
from vision_peft.data.datasets.list import ImageLists
from vision_peft.data.decoding.band_files import draw_bands
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.loading.cached_images import Cached

STACK = ("_B2.npy", "_B3.npy")


def write_stacks(folder: Path, names: str = "abcd") -> None:
    """Write two files of one band each for every name; the second band holds 10 more than the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        for band, ending in enumerate(STACK):
            np.save(folder / f"{name}{ending}", np.full((3, 4), number + 10 * band, np.uint16))


def test_a_stack_in_class_folders_is_one_image(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            write_stacks(tmp_path / split / name)
    config = Folder(root=str(tmp_path), channels=2, stack=STACK)
    train = config.load("train")
    assert len(train) == 8
    assert train.labels == [0] * 4 + [1] * 4
    assert train.image(5)[:, 0, 0].tolist() == [1, 11]
    assert len(config.load("trainval")) == 16
    (tmp_path / "train/cat/b_B3.npy").unlink()
    np.save(tmp_path / "val/dog/z.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match="2 problems") as caught:
        config.load("train")
    assert "cat/b_B2.npy: " in str(caught.value)
    assert "b_B3.npy is missing (data.stack)" in str(caught.value)
    assert "z.npy: its name ends in none of data.stack (_B2.npy, _B3.npy)" in str(caught.value)


def test_a_list_names_the_first_file_of_a_stack(tmp_path: Path) -> None:
    write_stacks(tmp_path / "images", "abc")
    lines = [f"images/{name}_B2.npy {label}" for name, label in (("a", 0), ("b", 1), ("c", 0))]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    fields: dict[str, Any] = {"root": str(tmp_path), "train": "train.txt", "val": "train.txt", "channels": 2}
    (tmp_path / "images/b_B3.npy").unlink()
    (tmp_path / "train.txt").write_text("\n".join([*lines, "images/c_B3.npy 1"]))
    with pytest.raises(ValueError, match="problems") as caught:
        ImageLists(**fields, stack=STACK).load("train")
    assert "train.txt:2: image 'images/b_B3.npy' is missing" in str(caught.value)
    assert "train.txt:4: image 'images/c_B3.npy' does not end in '_B2.npy', the first of data.stack" in str(
        caught.value
    )
    (tmp_path / "outside_B3.npy").write_bytes(b"")
    outside = tmp_path / "data"
    write_stacks(outside, "a")
    (outside / "a_B3.npy").unlink()
    (outside / "a_B3.npy").symlink_to(tmp_path / "outside_B3.npy")
    (outside / "train.txt").write_text("a_B2.npy 0")
    with pytest.raises(ValueError, match=r"'a_B3\.npy' leads out of"):
        ImageLists(root=str(outside), train="train.txt", channels=2, stack=STACK).load("train")


def test_images_that_are_kept_are_those_that_are_read(tmp_path: Path) -> None:
    dataset: Any = Folder(root=str(write_bands(tmp_path, 5)), channels=5).load("train")
    settings: dict[str, Any] = {"size": [8, 8], "mean": [50.0] * 5, "std": [30.0] * 5, "interpolation": "bicubic"}
    for augment in ("none", "crop_flip"):
        dataset.set_training({**settings, "resize": "squash", "crop_pct": 1.0, "channels": 5}, augment, 0.0)
        kept = Cached(dataset, Store(10**7))
        kept.prepare()
        assert len(kept.store.kept) == len(dataset)
        torch.manual_seed(0)
        wanted = dataset[3][0]
        torch.manual_seed(0)
        assert torch.equal(kept[3][0], wanted)
    sides = 8 * 8 * 5 * 4, 13 * 10 * 5 * 4  # bytes of an image in float32
    assert dataset.count_pixels(0) * dataset.bytes_per_pixel == sides[1]
    assert kept.store.used == len(dataset) * sides[1]


def test_a_picture_shows_the_chosen_bands_between_their_percentiles(tmp_path: Path) -> None:
    values = torch.arange(101.0).expand(3, 1, 101).clone()
    values[1] = 5
    values[2, 0, 50] = torch.nan
    picture = np.asarray(draw_bands(values, (2, 1, 0)))
    assert picture.shape == (1, 101, 3)
    assert picture[0, [0, 2, 50, 98, 100], 2].tolist() == [0, 0, 128, 255, 255]
    assert picture[0, [0, 50, 100], 0].tolist() == [0, 0, 255]  # what is missing is black, and no percentile
    assert set(picture[..., 1].ravel()) == {0}
    assert len({tuple(pixel) for pixel in np.asarray(draw_bands(values, (0,)))[0].tolist() if len({*pixel}) > 1}) == 0
    root = str(write_bands(tmp_path, 4))
    shown = Folder(root=root, channels=4, show_bands=(3, 0, 1)).load("train")
    assert shown.picture(0).tobytes() == draw_bands(shown.image(0), (3, 0, 1)).tobytes()


def test_a_check_says_what_each_band_holds(tmp_path: Path) -> None:
    root = write_bands(tmp_path, 2, number=2, dtype="float32")
    values = np.zeros((13, 10, 2), np.float32)
    values[..., 1] = np.nan
    np.save(root / "train/dark/0.npy", values)
    (root / "train/dark/0.tif").unlink()
    config = Folder(root=str(root), channels=2, bands=("red", "nir"), missing="mean")
    (report,) = check_tasks(config, 1)
    facts = to_json([report])["tasks"][0]["splits"]["train"]["bands"]
    assert [(band["band"], band["images"], band["missing"]) for band in facts] == [("red", 4, 0.0), ("nir", 3, 0.25)]
    assert facts[0]["min"] == 0
    assert facts[1]["max"] <= 199
    assert "  band nir: " in summarise(report)
    assert ", 25 % missing" in summarise(report)
