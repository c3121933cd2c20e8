"""From a tensor of any number of bands, in the units of its file, to what a backbone wants.

Missing values (NaN) become the mean of their band before anything is scaled, so that they are 0 once normalised and
spoil no neighbour. Geometry is that of images, on tensors: float32 throughout, with antialiasing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from vision_peft.data.choices import RGB_AUGMENTS
from vision_peft.data.transforms.images import Geometry, Transform, find_mode, height_width


@dataclass(frozen=True)
class BandGeometry(Geometry):
    """`Geometry` of a tensor `C H W` whose missing values become `mean`, the mean of each band."""

    mean: tuple[float, ...] = ()

    def __call__(self, image: Any) -> Tensor:
        return super().__call__(fill_missing(image, self.mean))


class NormaliseBands:
    """Tensor `C H W` to `(value - mean) / std` of each band, contiguous."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(list(each), dtype=torch.float32).view(-1, 1, 1) for each in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return ((image - self.mean) / self.std).contiguous()


def fill_missing(image: Tensor, mean: Sequence[float]) -> Tensor:
    """Replace NaN of each band (`C H W`) by its mean; ValueError where the image has other bands."""
    if len(image) != len(mean):
        raise ValueError(f"the image has {len(image)} channels, the settings of the input are of {len(mean)}")
    missing = image.isnan()
    if not missing.any():
        return image
    return torch.where(missing, torch.tensor(mean, dtype=image.dtype).view(-1, 1, 1), image)


def eval_bands(settings: Mapping[str, Any]) -> Transform:
    """Create the transform of a tensor `C H W` that `eval_transform` is of an image, from the input settings."""
    return Transform(_geometry(settings), NormaliseBands(settings["mean"], settings["std"]))


def train_bands(
    settings: Mapping[str, Any],
    augment: str = "none",
    random_erasing: float = 0.0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
) -> Transform:
    """Create the transform of a tensor `C H W` that `train_transform` is of an image.

    Raises:
        ValueError: an augmentation that is of colours.
    """
    if augment in RGB_AUGMENTS:
        raise ValueError(f"augment={augment} changes colours, so it does not fit bands: give none, flip or a crop")
    geometry = _geometry(settings)
    steps: list[Callable[[Any], Any]] = []
    if augment == "random_crop_flip":
        if geometry.resize != "shortest":
            raise ValueError(f"augment='random_crop_flip' needs resize='shortest', got resize={geometry.resize!r}")
        steps += [geometry.cover, v2.RandomCrop(geometry.size)]
    elif augment == "crop_flip":
        mode = find_mode(geometry.interpolation)
        steps.append(v2.RandomResizedCrop(geometry.size, scale=crop_scale, interpolation=mode))
    if augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    steps.append(NormaliseBands(settings["mean"], settings["std"]))
    if random_erasing:
        steps.append(v2.RandomErasing(p=random_erasing))
    fixed = geometry if augment in ("none", "flip") else None
    if fixed is None:
        steps.insert(0, lambda image: fill_missing(image, geometry.mean))
    return Transform(fixed, v2.Compose(steps) if len(steps) > 1 else steps[0])


def _geometry(settings: Mapping[str, Any]) -> BandGeometry:
    options = {key: settings[key] for key in ("interpolation", "resize", "crop_pct")}
    return BandGeometry(height_width(settings["size"]), **options, mean=tuple(settings["mean"]))
