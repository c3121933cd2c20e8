"""From a decoded clip, uint8 `T C H W`, to the float tensor `C T H W` a video backbone wants.

The counterpart of `transforms.py`: torchvision.transforms.v2 on `tv_tensors.Video`, so that one random draw serves all
frames of a clip. Nothing flips a clip unless it is asked to: left and right are classes in Something-Something.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vision_peft.data.choices import CLIP_AUGMENTS
from vision_peft.data.problems import unknown
from vision_peft.data.transforms.images import INTERPOLATIONS, Geometry


class ClipTransform(ABC):
    """A clip (uint8 `T C H W`) to float `C T H W` in two halves: `finish(fix(clip), crop)`.

    What `fix` makes of a frame, uint8 again, is the same every time and whatever frames come with it, so that it can be
    done once and kept (`fixes` says in which way; None: a frame stays as it is). `finish` may be random.
    """

    @property
    @abstractmethod
    def fixes(self) -> tuple[str, Geometry] | None:
        """What `fix` does; two transforms with the same value do the same."""

    def fix(self, clip: Tensor) -> Tensor:
        """Return the frames as they are always made, `T C H W`."""
        if self.fixes is None:
            return clip
        way, geometry = self.fixes
        video = tv_tensors.Video(clip)
        return (geometry.cover(video) if way == "cover" else geometry(video)).as_subclass(Tensor)

    @abstractmethod
    def finish(self, clip: Tensor, crop: int = 0) -> Tensor:
        """Return float `C T H W` of what `fix` returned; `crop` is one of the spatial views."""

    def __call__(self, clip: Tensor, crop: int = 0) -> Tensor:
        return self.finish(self.fix(clip), crop)


@dataclass(frozen=True)
class EvalClip(ClipTransform):
    """A clip (uint8 `T C H W`) to float `C T H W`, the same every time; `crop` is one of `crops` spatial views."""

    geometry: Geometry
    to_float: Callable[[Any], Tensor]
    crops: int = 1

    @property
    def fixes(self) -> tuple[str, Geometry]:
        return "resize" if self.geometry.resize == "squash" else "cover", self.geometry

    def finish(self, clip: Tensor, crop: int = 0) -> Tensor:
        video: Tensor = tv_tensors.Video(clip)
        if self.geometry.resize != "squash":
            video = crop_view(video, self.geometry.size, crop, self.crops)
        return _put_time_second(self.to_float(video))


@dataclass(frozen=True)
class TrainClip(ClipTransform):
    """A clip (uint8 `T C H W`) to float `C T H W`, all frames by the same random draw of torch's generator."""

    geometry: Geometry | None  # None: the random steps start from the whole frame
    steps: Callable[[Any], Tensor]

    @property
    def fixes(self) -> tuple[str, Geometry] | None:
        return None if self.geometry is None else ("resize", self.geometry)

    def finish(self, clip: Tensor, crop: int = 0) -> Tensor:
        return _put_time_second(self.steps(tv_tensors.Video(clip)))


@dataclass(frozen=True)
class MultiScaleCrop:
    """One of the TSN family's crops, scaled to `size` (height, width): AdaptFormer's augmentation of videos.

    Height and width of the crop are the short side times two of `scales` that stand next to each other or are the same;
    a side within two pixels of `size` is taken as that. Its place is one of 13: corners, centre, middles of the four
    sides, and the four points half-way between centre and corners.
    """

    size: tuple[int, int]
    interpolation: v2.InterpolationMode = v2.InterpolationMode.BILINEAR
    scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)

    def __call__(self, clip: Tensor) -> Tensor:
        height, width = F.get_size(clip)
        boxes = self.boxes(height, width)
        tall, wide = boxes[_draw(len(boxes))]
        down, right = PLACES[_draw(len(PLACES))]
        top, left = down * ((height - tall) // 4), right * ((width - wide) // 4)
        return F.resized_crop(clip, top, left, tall, wide, list(self.size), interpolation=self.interpolation)

    def boxes(self, height: int, width: int) -> list[tuple[int, int]]:
        """List the (height, width) that a crop of a clip of `height` x `width` pixels may have."""
        sides = [int(min(height, width) * scale) for scale in self.scales]
        talls, wides = (
            [own if abs(side - own) < 3 and own <= most else side for side in sides]
            for own, most in zip(self.size, (height, width), strict=True)
        )
        return [(tall, wide) for i, tall in enumerate(talls) for j, wide in enumerate(wides) if abs(i - j) <= 1]


# Of a crop in its clip, in quarters of the room (down, right).
PLACES = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((0, 2), (2, 0), (2, 4), (4, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


def crop_view(clip: Tensor, size: tuple[int, int], view: int, views: int) -> Tensor:
    """Crop `view` of `views`, of `size` (height, width), of frames `... H W` that cover it.

    The crops are spread evenly over the side with more room, from its start to its end; a single one is the centre, at
    the pixel where torchvision's `center_crop` puts it.
    """
    rooms = [side - kept for side, kept in zip(F.get_size(clip), size, strict=True)]
    starts = [round(room / 2) for room in rooms]
    if views > 1:
        longer = int(rooms[1] >= rooms[0])
        starts[longer] = round(rooms[longer] * view / (views - 1))
    return F.crop(clip, starts[0], starts[1], size[0], size[1])


def eval_clip_transform(
    *,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    resize: str = "squash",
    crop_pct: float = 1.0,
    crops: int = 1,
) -> EvalClip:
    """Create the transform `(clip uint8 T C H W, crop index) -> float C T H W`, with the geometry of `eval_transform`.

    Raises:
        ValueError: `crops` above 1 with `resize="squash"`, which leaves nothing to choose from.
    """
    if crops > 1 and resize == "squash":
        raise ValueError(f"{crops} spatial crops need resize=shortest: with resize=squash there is only one")
    geometry = Geometry((size[0], size[1]), interpolation, resize, crop_pct)
    return EvalClip(geometry, v2.Compose(_to_float(mean, std)), crops)


def train_clip_transform(
    *,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    augment: str = "none",
    resize: str = "squash",
    crop_pct: float = 1.0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    random_erasing: float = 0.0,
) -> TrainClip:
    """Create the transform of a clip for training.

    `augment`: "none" is the evaluation's geometry, "crop" RandomResizedCrop (`crop_scale`: share of the area),
    "multi_scale" `MultiScaleCrop`, "randaugment" RandAugment after "crop", four operations at 7 tenths of the strength
    as for VideoMAE (21 of torchvision's 30 steps). "flip" and the others with "_flip" add a horizontal flip.
    `random_erasing` is the probability of erasing a box (to 0, after normalising), the same in all frames.
    """
    if augment not in CLIP_AUGMENTS:
        raise unknown("augment of clips", augment, CLIP_AUGMENTS)
    pixels = (size[0], size[1])
    geometry = Geometry(pixels, interpolation, resize, crop_pct)
    kind = augment.removesuffix("flip").removesuffix("_") or "none"
    steps: list[Callable[[Any], Any]] = []
    if kind == "multi_scale":
        steps.append(MultiScaleCrop(pixels, INTERPOLATIONS[interpolation]))
    elif kind != "none":
        steps.append(v2.RandomResizedCrop(pixels, scale=crop_scale, interpolation=INTERPOLATIONS[interpolation]))
    if augment.endswith("flip"):
        steps.append(v2.RandomHorizontalFlip())
    if kind == "randaugment":
        steps.append(v2.RandAugment(num_ops=4, magnitude=21))
    steps += _to_float(mean, std)
    if random_erasing:
        steps.append(v2.RandomErasing(p=random_erasing))
    return TrainClip(geometry if kind == "none" else None, v2.Compose(steps))


def _to_float(mean: Sequence[float], std: Sequence[float]) -> list[torch.nn.Module]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std)), v2.ToPureTensor()]


def _put_time_second(clip: Tensor) -> Tensor:
    return clip.transpose(0, 1).contiguous()  # T C H W -> C T H W


def _draw(choices: int) -> int:
    return int(torch.randint(choices, ()))
