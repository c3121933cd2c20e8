"""Masks of images with any number of bands: the same geometry for both, missing values filled first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vision_peft.data.datasets.segmentation import Segmentation
from vision_peft.data.transforms.bands import eval_bands

SIZE = (24, 20)
SETTINGS: dict[str, Any] = {
    "size": list(SIZE),
    "mean": [0.0, 7.0],
    "std": [1.0, 2.0],
    "interpolation": "bilinear",
    "resize": "squash",
    "crop_pct": 1.0,
    "channels": 2,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two-band images, of which the first band says what the mask says and the second misses a corner."""
    draw = np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.txt").write_text("land\nwater\n")
    for number, split in enumerate(("train", "train", "val", "test")):
        mask = draw.integers(0, 2, SIZE).astype(np.uint8)
        image = np.stack([mask, draw.normal(size=SIZE)]).astype(np.float32)
        image[1, :3, :3] = np.nan
        np.save(tmp_path / f"images/{number}.npy", image)
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
        with (tmp_path / f"splits/{split}.txt").open("a") as file:
            file.write(f"{number}\n")
    return tmp_path


@pytest.mark.parametrize("augment", ["none", "flip", "scale_crop_flip"])
def test_images_and_masks_stay_together(root: Path, augment: str) -> None:
    train: Any = Segmentation(root=str(root), channels=2, missing="mean").open_splits()("train")
    window = {"window": True, "resize": "none"} if augment == "scale_crop_flip" else {}
    train.set_training({**SETTINGS, "interpolation": "nearest", **window}, augment, 0.0)
    for seed in range(6):
        torch.manual_seed(seed)
        image, mask = train[seed % 2]
        assert (image.shape, mask.shape) == ((2, *SIZE), SIZE)
        assert image.isfinite().all()
        if augment != "scale_crop_flip":
            assert torch.equal(image[0], mask.float())
        assert set(image[0][mask == 1].unique().tolist()) <= {0.0, 1.0}


def test_evaluation_sees_what_images_without_masks_are(root: Path) -> None:
    test: Any = Segmentation(root=str(root), channels=2, missing="mean").load("test")
    test.set_evaluation(SETTINGS)
    image, mask = test[0]
    assert torch.equal(image, eval_bands(SETTINGS)(test.image(0)))
    assert torch.equal(image[1, :3, :3], torch.zeros(3, 3))
    assert mask.shape == SIZE
    test.set_evaluation({**SETTINGS, "window": True, "resize": "none"})
    assert torch.equal(test[0][0], image)
    assert test.header(0).mode == "float32 x 2"
    assert test.picture(0).size == (20, 24)


def test_what_masks_do_not_have_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.stack does not work with masks"):
        Segmentation(root=str(root), channels=2, stack=("_a.npy", "_b.npy"))
    assert Segmentation(root=str(root), channels=3, missing="mean").load("test").channels == 3
