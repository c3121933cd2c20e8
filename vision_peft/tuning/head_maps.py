"""What a head for maps reads: feature maps of the layers it asks for, in place of timm's pooled features.

A graft on the model has timm's own ``forward_intermediates`` make them, behind the final norm where the family norms
them, and takes the place of ``forward_head``. It can also answer images larger than the model takes, window by window.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.config import resolve_model_data_config
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from vision_peft.tuning.backbone import classifier_names, frames_in_batch, image_size
from vision_peft.tuning.families import family_of
from vision_peft.tuning.families.family import Family
from vision_peft.tuning.graft import HeadGraft, graft_innermost
from vision_peft.tuning.head_kinds import MapHead, MapPyramid
from vision_peft.tuning.map_heads import MapClassifier, count_finer, count_layers, resize

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Windows:
    """Windows of a fixed size over larger images."""

    size: Size  # pixels
    stride: int  # pixels from one to the next, at most; 0: two thirds of a window
    step: int  # pixels from one place of the map to the next

    def list_starts(self, side: int, axis: int) -> list[int]:
        """List where windows begin on a side of so many pixels: evenly, the first at its start, the last at its end."""
        room, size = side - self.size[axis], self.size[axis]
        stride = min(self.stride or size * 2 // 3, size)
        count = math.ceil(room / stride) + 1
        return [round(room * number / max(count - 1, 1) / self.step) * self.step for number in range(count)]


@dataclass(frozen=True)
class MapSource:
    """How the maps of a model reach its head."""

    family: Family
    heads: tuple[str, ...]  # names of the classification layers
    layers: tuple[int, ...]  # as forward_intermediates numbers them
    windows: Windows | None  # None: images are taken as they come


class MapsToHead(HeadGraft):
    """A timm model whose head gets maps (B C h w); of two heads the mean counts, as in a distilled model."""

    map_source: MapSource
    forward_intermediates: Any

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        source: MapSource = self.map_source
        answer: Any = super().forward
        if source.windows is None or x.shape[-2:] == source.windows.size:
            return answer(x, *args, **kwargs)
        return answer_windows(lambda part: answer(part, *args, **kwargs), x, source.windows)

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the maps of the layers: one tensor with all channels where they have one size, else a list."""
        source = self.map_source
        asked: Any = {"indices": list(source.layers), "norm": source.family.norms_maps, "intermediates_only": True}
        maps = self.forward_intermediates(x, **asked, output_fmt="NCHW", **_without_masks(kwargs))
        for norm in source.family.map_norms(self):
            normed = 0 if is_flat(self) else len(maps) - 1
            maps = [*maps[:normed], *(_norm_places(norm, part) for part in maps[normed:])]
        return torch.cat(maps, 1) if len({part.shape[-2:] for part in maps}) == 1 else maps

    def own_features(self, x: Tensor) -> Any:
        """Return what ``forward_features`` of timm's gives: the tokens of the backbone behind its final norm."""
        return super().forward_features(x)  # pyright: ignore[reportAttributeAccessIssue]

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        if pre_logits:
            return x
        logits = [self.get_submodule(name)(x) for name in self.map_source.heads]
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)


def _norm_places(norm: nn.Module, part: Tensor) -> Tensor:
    """Norm the channels of a map (B C h w)."""
    if isinstance(norm, LayerNorm2d):
        return norm(part)
    return norm(part.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _without_masks(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave out what timm's forward hands on by default: no mask, no causal attention."""
    return {key: value for key, value in kwargs.items() if value is not None and value is not False}


def check_maps(model: Any, head: MapHead) -> None:
    """Raise ValueError where ``model`` gives no maps of so many layers, or takes clips."""
    name = type(model).__name__
    wanted = [part for part in ("forward_intermediates", "forward_head", "feature_info") if not hasattr(model, part)]
    if wanted:
        raise ValueError(f"{name} has no {' and no '.join(wanted)} of timm's, by which maps reach the head")
    if frames_in_batch(model) > 1 or getattr(getattr(model, "patch_embed", None), "num_frames", 1) > 1:
        raise ValueError(f"this {name} takes clips: a head for maps takes single images, leave num_frames out")
    if count_layers(head) > len(model.feature_info):
        most = len(model.feature_info)
        raise ValueError(
            f"{name} has {most} layers that give maps, the head reads {count_layers(head)}: give layers={most}"
        )


def choose_layers(model: Any, head: MapHead) -> tuple[int, ...]:
    """Choose the layers that ``head`` reads, by the numbers of ``forward_intermediates``, the finest map first."""
    wanted, total = count_layers(head), len(model.feature_info)
    if isinstance(head, MapPyramid) and is_flat(model):
        return tuple(total * (number + 1) // wanted - 1 for number in range(wanted))
    return tuple(range(total - wanted, total))


def is_flat(model: Any) -> bool:
    """Tell whether the maps of all layers have one size."""
    return len({info["reduction"] for info in model.feature_info}) == 1


def map_classifier(model: Any, head: MapHead, num_classes: int) -> MapClassifier:
    """Create the head of this kind for ``model``."""
    layers = choose_layers(model, head)
    return MapClassifier([model.feature_info[layer]["num_chs"] for layer in layers], num_classes, head, is_flat(model))


def give_maps(model: Any, head: MapHead) -> None:
    """Have the classification layers of ``model`` called with maps from now on."""
    names, layers = classifier_names(model), choose_layers(model, head)
    source = MapSource(family_of(model), names, layers, _windows(model, head) if head.window else None)
    graft_innermost(model, MapsToHead, map_source=source)


def _windows(model: Any, head: MapHead) -> Windows:
    height, width = image_size(model) or resolve_model_data_config(model)["input_size"][-2:]
    finest = model.feature_info[choose_layers(model, head)[0]]["reduction"]
    step = max(finest // count_finer(head, is_flat(model)), 1)
    if height % step or width % step:
        raise ValueError(
            f"windows of {height} x {width} pixels do not hold whole places of {step} pixels: give img_size that "
            f"{step} divides"
        )
    return Windows((height, width), head.stride, step)


def reads_layers(model: Any) -> int:
    """Count the layers whose maps the head of ``model`` reads; 1 where it reads none."""
    return len(model.map_source.layers) if reads_maps(model) else 1


def find_windows(model: Any) -> Windows | None:
    """Return the windows through which ``model`` looks at images, None where it takes them whole."""
    return model.map_source.windows if reads_maps(model) else None


def reads_maps(model: nn.Module) -> bool:
    """Tell whether the head of ``model`` answers for every place of a map."""
    return isinstance(getattr(model, "map_source", None), MapSource)


def answer_windows(answer: Callable[[Tensor], Tensor], images: Tensor, windows: Windows) -> Tensor:
    """Answer images (B 3 H W) of any size by logits (B C h w): the mean of what the windows over a place say of it.

    Every window begins where a place of the map does. So that a map has whole places, images are scaled to the next
    such size first, by less than a place. What is smaller than a window is then filled up to the right and below with 0
    (the mean, as in training), and the answers for that are cut off.
    """
    step, own = windows.step, [math.ceil(side / windows.step) * windows.step for side in images.shape[-2:]]
    if [*images.shape[-2:]] != own:
        images = F.interpolate(images, size=own, mode="bilinear")
    size = [max(side, part) for side, part in zip(own, windows.size, strict=True)]
    if size != own:
        images = F.pad(images, (0, size[1] - own[1], 0, size[0] - own[0]))
    height, width = (part // step for part in windows.size)
    places = [windows.list_starts(side, axis) for axis, side in enumerate(size)]
    total, counts = torch.empty(0), images.new_zeros(1, 1, *(side // step for side in size))
    for top, left in itertools.product(*places):
        pixels = images[..., top : top + windows.size[0], left : left + windows.size[1]]
        logits = resize(answer(pixels).float(), (height, width))  # it may be finer than its pixels
        rows, columns = slice(top // step, top // step + height), slice(left // step, left // step + width)
        if not len(total):
            total = logits.new_zeros(*logits.shape[:2], *counts.shape[2:])
        total[..., rows, columns] += logits
        counts[..., rows, columns] += 1
    return (total / counts)[..., : own[0] // step, : own[1] // step]
