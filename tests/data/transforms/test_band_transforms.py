"""Transforms of tensors with any number of bands."""

from typing import Any

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vision_peft.data.transforms.bands import eval_bands, fill_missing, train_bands

SETTINGS: dict[str, Any] = {
    "size": [14, 28],
    "mean": [10.0, -5.0, 300.0, 0.0],
    "std": [2.0, 3.0, 50.0, 1.0],
    "interpolation": "bicubic",
    "resize": "squash",
    "crop_pct": 1.0,
    "channels": 4,
}
MEAN, STD = (torch.tensor(SETTINGS[key]).view(-1, 1, 1) for key in ("mean", "std"))
IMAGE = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0)) * STD + MEAN


def resize(image: torch.Tensor) -> torch.Tensor:
    return F.resize(image, [14, 28], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)


def test_evaluation_scales_and_normalises_each_band() -> None:
    found = eval_bands(SETTINGS)(IMAGE)
    assert torch.equal(found, (resize(IMAGE) - MEAN) / STD)
    assert found.is_contiguous()
    shortest = eval_bands({**SETTINGS, "resize": "shortest", "crop_pct": 0.5})(IMAGE)
    assert shortest.shape == (4, 14, 28)
    assert not torch.equal(shortest, found)


def test_missing_values_become_the_mean_of_their_band_before_anything_is_scaled() -> None:
    image = IMAGE.clone()
    image[2, 3:6, 4:9] = torch.nan
    filled = image.clone()
    filled[2, 3:6, 4:9] = 300
    assert torch.equal(eval_bands(SETTINGS)(image), (resize(filled) - MEAN) / STD)
    torch.manual_seed(0)
    wanted = train_bands(SETTINGS, "crop_flip")(filled)
    torch.manual_seed(0)
    assert torch.equal(train_bands(SETTINGS, "crop_flip")(image), wanted)
    assert fill_missing(IMAGE, SETTINGS["mean"]) is IMAGE
    with pytest.raises(ValueError, match="the image has 3 channels, the settings of the input are of 4"):
        eval_bands(SETTINGS)(IMAGE[:3])


@pytest.mark.parametrize("augment", ["none", "flip", "crop_flip", "random_crop_flip"])
def test_training_draws_what_it_draws_for_pictures(augment: str) -> None:
    settings = {**SETTINGS, "resize": "shortest", "crop_pct": 0.8} if augment == "random_crop_flip" else SETTINGS
    transform = train_bands(settings, augment, random_erasing=1.0)
    assert (transform.fixed is None) == ("crop" in augment)
    torch.manual_seed(0)
    found = [transform(IMAGE) for _ in range(6)]
    assert {tuple(each.shape) for each in found} == {(4, 14, 28)}
    assert len({each.sum().item() for each in found}) > 1
    assert all((each == 0).all(0).any() for each in found)  # a box of all bands is erased
    if augment == "flip":
        plain = eval_bands(settings)(IMAGE)
        one = train_bands(settings, augment)
        seen = {
            torch.equal(each, plain): torch.allclose(each, plain.flip(2), atol=1e-4) for each in map(one, [IMAGE] * 8)
        }
        assert seen == {True: False, False: True}


def test_what_changes_colours_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="augment=randaugment changes colours, so it does not fit bands"):
        train_bands(SETTINGS, "randaugment")
    with pytest.raises(ValueError, match="augment='random_crop_flip' needs resize='shortest'"):
        train_bands(SETTINGS, "random_crop_flip")
