"""From a PIL image to the float tensor a backbone wants, with torchvision.transforms.v2.

Geometry works on the PIL image, as in the published pipelines; then uint8 tensor, float in 0..1, normalise, random
erasing. What an image always becomes is kept apart from the rest, so that it can be done once (`cache.py`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vision_peft.data.choices import AUGMENTS, NORMALISATIONS, RESIZES
from vision_peft.data.problems import unknown
from vision_peft.data.transforms.pixel_table import NormalisePixels

INTERPOLATIONS = {mode.value: mode for mode in v2.InterpolationMode}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GEOMETRY = ("size", "mean", "std", "interpolation", "resize", "crop_pct")
_LONGEST = 32  # an image longer than this many widths loses its ends before the resize, else they could fill the memory


def select_geometry(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the input settings of a model that every transform takes as keywords."""
    return {key: settings[key] for key in GEOMETRY}


def choose_normalisation(
    name: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return `(mean, std)` in units of 0..1: as given, ImageNet's, 0.5 ("half", Inception's), or 0 and 1 ("none")."""
    choices = {
        "backbone": (mean, std),
        "imagenet": IMAGENET,
        "half": ((0.5,) * 3, (0.5,) * 3),
        "none": ((0.0,) * 3, (1.0,) * 3),
    }
    if name not in choices:
        raise unknown("normalisation", name, NORMALISATIONS)
    return choices[name]


@dataclass(frozen=True)
class Geometry:
    """PIL image to the PIL image of `size` (height, width), the same every time: the two ways of `eval_transform`."""

    size: tuple[int, int]
    interpolation: str = "bicubic"
    resize: str = "squash"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        find_mode(self.interpolation)
        if self.resize not in RESIZES:
            raise unknown("resize", self.resize, RESIZES)
        if self.resize == "shortest" and not 0 < self.crop_pct <= 1:
            raise ValueError(
                "crop_pct is the share of the resized side that is kept: wanted above 0 and up to 1, "
                f"got {self.crop_pct}"
            )

    def __call__(self, image: Any) -> Any:
        if self.resize == "squash":
            return F.resize(image, list(self.size), interpolation=find_mode(self.interpolation))
        return F.center_crop(self.cover(image), list(self.size))

    def cover(self, image: Any) -> Any:
        """Scale the image until it just covers `size / crop_pct` (a square: its short side)."""
        height, width = F.get_size(image)
        shorter = min(height, width)
        if max(height, width) > _LONGEST * shorter:
            height, width = min(height, _LONGEST * shorter), min(width, _LONGEST * shorter)
            image = F.center_crop(image, [height, width])
        tall, wide = (math.floor(side / self.crop_pct) for side in self.size)
        if height * wide <= width * tall:
            scaled = [tall, max(wide, int(width * tall / height))]
        else:
            scaled = [max(tall, int(height * wide / width)), wide]
        return F.resize(image, scaled, interpolation=find_mode(self.interpolation))


@dataclass(frozen=True)
class Transform:
    """PIL image to float tensor `3 H W` in two halves.

    `fixed` makes the same PIL image of an image every time, None where the rest starts from the whole image; `rest`
    turns that into the tensor and may be random.
    """

    fixed: Geometry | None
    rest: Callable[[Any], torch.Tensor]

    def __call__(self, image: Any) -> torch.Tensor:
        return self.rest(image if self.fixed is None else self.fixed(image))


def eval_transform(
    *,
    size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    resize: str = "squash",
    crop_pct: float = 1.0,
) -> Transform:
    """Create the transform of a PIL image to a float tensor `3 H W`, the same every time.

    `resize="squash"` scales to `size` directly, changing the aspect ratio, as the VTAB-1k papers do, and knows no
    `crop_pct`; `"shortest"` scales the short side to `size / crop_pct` and crops the centre, as timm does.
    """
    geometry = Geometry(height_width(size), interpolation, resize, crop_pct)
    return Transform(geometry, NormalisePixels(mean, std))


def train_transform(
    *,
    size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    augment: str = "none",
    resize: str = "squash",
    crop_pct: float = 1.0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    random_erasing: float = 0.0,
) -> Transform:
    """Create the transform of a PIL image to a float tensor `3 H W` for training.

    `augment`: "none" is the evaluation's geometry, "flip" adds a horizontal flip, "random_crop_flip" cuts anywhere
    instead of in the centre ("shortest" only) and flips, "crop_flip" is RandomResizedCrop (`crop_scale`: share of the
    area) and flip, "randaugment" adds RandAugment(2, 9) to that. `random_erasing` is the probability of erasing a box
    (to 0, after normalising).
    """
    if augment not in AUGMENTS:
        raise unknown("augment", augment, AUGMENTS)
    geometry = Geometry(height_width(size), interpolation, resize, crop_pct)
    fixed: Geometry | None = None
    steps: list[Callable[[Any], Any]] = []
    if augment in ("none", "flip"):
        fixed = geometry
    elif augment == "random_crop_flip":
        if resize != "shortest":
            raise ValueError(f"augment='random_crop_flip' needs resize='shortest', got resize={resize!r}")
        steps += [geometry.cover, v2.RandomCrop(geometry.size)]
    else:
        steps += [v2.RandomResizedCrop(height_width(size), scale=crop_scale, interpolation=find_mode(interpolation))]
    if augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    if augment == "randaugment":
        steps.append(v2.RandAugment(num_ops=2, magnitude=9))
    steps.append(NormalisePixels(mean, std))
    if random_erasing:
        if not 0 <= random_erasing <= 1:
            raise ValueError(f"random_erasing is a probability: wanted 0 to 1, got {random_erasing}")
        steps.append(v2.RandomErasing(p=random_erasing))
    return Transform(fixed, v2.Compose(steps) if len(steps) > 1 else steps[0])


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Return a size in pixels, of a square by its side; ValueError where it is none."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"an image size is (height, width) in pixels, got {size}")
    return int(height), int(width)


def find_mode(interpolation: str) -> v2.InterpolationMode:
    """Return torchvision's interpolation of a name; ValueError where there is none."""
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    return INTERPOLATIONS[interpolation]
