"""From an image and its mask to tensors, the same geometry for both: masks by their nearest pixel, never blended.

In evaluation a mask stays as large as it is, and answers are scaled to it. In training, where images are cut or shrunk,
the mask is with them; what is added around an image, in the colour of the mean, gets the padding of its mask, which
does not count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vision_peft.data.transforms.bands import BandGeometry, NormaliseBands, fill_missing
from vision_peft.data.transforms.images import INTERPOLATIONS, Geometry
from vision_peft.data.transforms.pixel_table import NormalisePixels

JITTER = (0.5, 2.0)  # of the scale, for augment=scale_crop_flip
AREA = (0.25, 1.0)  # of the image that is cut out, for augment=crop_flip
Pair = tuple[Any, Any]  # an image and its mask


@dataclass(frozen=True)
class JointTransform:
    """An image and its mask to tensors, 3 H W and H W.

    `fixed` is done to an image every time first; `steps` change both, and may be random; `finish` makes a tensor of
    the image.
    """

    fixed: Geometry | None
    fits_mask: bool  # the mask gets the size of `fixed`, too
    steps: Sequence[Callable[..., Pair]]
    finish: Callable[[Any], Tensor]

    def __call__(self, image: Any, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.rest(image if self.fixed is None else self.fixed(image), mask)

    def fit_mask(self, mask: np.ndarray) -> Tensor:
        """Return the mask as it is before `steps`, in its own type."""
        found = tv_tensors.Mask(torch.from_numpy(np.array(mask)))
        if self.fixed is not None and self.fits_mask:
            found = _resize_mask(found, self.fixed.size)
        return found.as_subclass(torch.Tensor)

    def rest(self, image: Any, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Do what is not `fixed`."""
        found: Any = tv_tensors.Mask(self.fit_mask(mask))
        for step in self.steps:
            image, found = step(image, found)
        plain = found.as_subclass(torch.Tensor)
        return self.finish(image), plain if plain.is_floating_point() else plain.long()


def eval_masks(settings: Mapping[str, Any]) -> JointTransform:
    """Create the transform of evaluation: the whole image at the model's size, or larger where windows go over it."""
    geometry = check_whole(settings)
    finish = _choose_finish(settings)
    if geometry is not None:
        return JointTransform(geometry, False, (), finish)
    return JointTransform(None, False, (*_fill(settings), _Scale(settings)), finish)


def eval_image(settings: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    """Create what `eval_masks` does to an image, for images without a mask."""
    transform, nothing = eval_masks(settings), np.zeros((1, 1), np.uint8)
    return lambda image: transform(image, nothing)[0]


def train_masks(settings: Mapping[str, Any], augment: str, random_erasing: float, padding: int) -> JointTransform:
    """Create the transform of training; `augment` as for images, or "scale_crop_flip".

    "scale_crop_flip" scales by a random factor of `JITTER` and cuts anywhere. What is cut out larger than the image is
    filled up: with the mean, which is 0 once normalised, and in the mask with `padding`.

    Raises:
        ValueError: a geometry or an augmentation that masks do not have.
    """
    whole, size = check_whole(settings), [*settings["size"]]
    finish: Any = _choose_finish(settings)
    if random_erasing:
        finish = v2.Compose([finish, v2.RandomErasing(p=random_erasing)])
    flip = v2.RandomHorizontalFlip()
    if augment in ("none", "flip") and whole is not None:
        return JointTransform(whole, True, [flip] if augment == "flip" else [], finish)
    scale, pad = _Scale(settings, fits_mask=True), _Pad(size, settings, padding)
    if augment in ("none", "flip"):
        cut: Any = [scale, pad, v2.CenterCrop(size)]
    elif augment == "random_crop_flip":
        if whole is not None:
            raise ValueError("augment=random_crop_flip cuts windows out of an image: give recipe.window=true")
        cut = [scale, pad, v2.RandomCrop(size)]
    elif augment == "crop_flip":
        cut = [_ResizedCrop(size, settings["interpolation"])]
    elif augment == "scale_crop_flip":
        cut = [_Scale(settings, fits_mask=True, jitter=JITTER), pad, v2.RandomCrop(size)]
    else:
        raise ValueError(
            f"augment={augment} does not fit masks: wanted one of none, flip, crop_flip, scale_crop_flip and, with "
            "recipe.window=true, random_crop_flip"
        )
    return JointTransform(None, False, [*_fill(settings), *cut, *([] if augment == "none" else [flip])], finish)


def check_whole(settings: Mapping[str, Any]) -> Geometry | None:
    """Return how whole images get the model's size; None where windows go over them.

    Raises:
        ValueError: a resize that would cut parts of an image off, or one that windows do not have.
    """
    window, resize = settings.get("window", False), settings["resize"]
    if not window and resize != "squash":
        raise ValueError(
            f"resize={resize} would leave parts of the images without an answer: give resize=squash for whole images, "
            "or recipe.window=true for windows over them"
        )
    if window and resize == "squash":
        raise ValueError(
            "windows go over images that keep their shape: give recipe.resize=none (their own pixels) or "
            "recipe.resize=shortest (the short side scaled to that of the window, by recipe.crop_pct)"
        )
    height, width = settings["size"]
    if window:
        return None
    if "channels" in settings:
        return BandGeometry((height, width), settings["interpolation"], mean=tuple(settings["mean"]))
    return Geometry((height, width), settings["interpolation"])


def _choose_finish(settings: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    kind = NormaliseBands if "channels" in settings else NormalisePixels
    return kind(settings["mean"], settings["std"])


def _fill(settings: Mapping[str, Any]) -> list[Callable[..., Pair]]:
    """Return the step that gives missing values of bands the mean of their band; none for pictures."""
    return [lambda image, mask: (fill_missing(image, settings["mean"]), mask)] if "channels" in settings else []


def _resize_mask(mask: Any, size: Sequence[int]) -> Any:
    """Take of a mask the pixel under the centre of each new one; torchvision's own nearest one lies up and left."""
    plain = mask.as_subclass(torch.Tensor)[None, None]
    found = torch.nn.functional.interpolate(plain, size=tuple(size), mode="nearest-exact")
    return tv_tensors.Mask(found[0, 0])


class _ResizedCrop:
    """Cut a random part out of an image and its mask, and scale it to `size`."""

    def __init__(self, size: Sequence[int], interpolation: str) -> None:
        self.size, self.mode = size, INTERPOLATIONS[interpolation]
        self.draw = v2.RandomResizedCrop(list(size), scale=AREA)

    def __call__(self, image: Any, mask: Any) -> Pair:
        box = self.draw.make_params([image])
        place = {side: box[side] for side in ("top", "left", "height", "width")}
        image = F.resized_crop(image, **place, size=[*self.size], interpolation=self.mode)
        return image, _resize_mask(F.crop(mask, **place), self.size)


class _Scale:
    """Scale an image as windows want it, and by a random factor of `jitter`; the mask too where it `fits_mask`."""

    def __init__(self, settings: Mapping[str, Any], fits_mask: bool = False, jitter: Sequence[float] = ()) -> None:
        self.settings, self.fits_mask, self.jitter = settings, fits_mask, jitter

    def __call__(self, image: Any, mask: Any) -> Pair:
        resize, size = self.settings["resize"], self.settings["size"]
        height, width = F.get_size(image)
        if resize == "squash":
            height, width = size
        elif resize == "shortest":
            factor = max(
                side / (part * self.settings["crop_pct"]) for side, part in zip(size, (height, width), strict=True)
            )
            height, width = round(height * factor), round(width * factor)
        if self.jitter:
            factor = torch.empty(()).uniform_(*self.jitter).item()
            height, width = max(round(height * factor), 1), max(round(width * factor), 1)
        if [height, width] == F.get_size(image):
            return image, mask
        mode = INTERPOLATIONS[self.settings["interpolation"]]
        image = F.resize(image, [height, width], interpolation=mode)
        return image, _resize_mask(mask, (height, width)) if self.fits_mask else mask


class _Pad:
    """Widen what is smaller than `size`, to the right and below: images by the mean, masks by `padding`."""

    def __init__(self, size: Sequence[int], settings: Mapping[str, Any], padding: int) -> None:
        self.size, self.padding, mean = size, padding, settings["mean"]
        self.mean: list[Any] = [*mean] if "channels" in settings else [round(255 * each) for each in mean]

    def __call__(self, image: Any, mask: Any) -> Pair:
        height, width = (max(side - has, 0) for side, has in zip(self.size, F.get_size(image), strict=True))
        if height or width:
            image = F.pad(image, [0, 0, width, height], fill=self.mean)
            mask = F.pad(mask, [0, 0, width, height], fill=self.padding)
        return image, mask


def as_picture(pixels: np.ndarray) -> Any:
    """Return kept pixels (H W 3), or of bands values (C H W), as the image that they were."""
    return Image.fromarray(pixels) if pixels.dtype == np.uint8 else torch.from_numpy(pixels)
