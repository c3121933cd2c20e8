"""Heads that answer for every place of a map: logits (B C h w) of feature maps, at the resolution of the finest one.

The linear head over the last layer, and over the last four side by side, is that of DINOv2 (Oquab et al., 2023,
https://arxiv.org/abs/2304.07193; official: facebookresearch/dinov2, dinov2/eval/segmentation/models/decode_heads/
linear_head.py):

    logits = W BN(concat(maps)) + b

Deviations: BatchNorm has no affine parameters, which W and b stand for, and there is no dropout in front of W.

``Pyramid`` is UPerNet (Xiao et al., ECCV 2018, https://arxiv.org/abs/1807.10221) at a fraction of its cost: one
convolution of 3 x 3 where the levels join, none behind each level, and fewer channels. Averages over 1, 2, 3 and 6
parts of each side join the coarsest map; every finer one adds what is coarser. Of a flat model, whose maps all have the
size of the patch grid, a transposed convolution doubles the finest one.

``Progressive`` is the decoder of SETR-PUP (Zheng et al., CVPR 2021, https://arxiv.org/abs/2012.15840; official:
fudan-zvg/SETR, VisionTransformerUpHead; as VPT uses it: mmsegmentation, setr_up_head.py): ``steps`` times

    x = upsample_2(ReLU(BN(conv_3x3(x))))

Deviations: the norm of the features is BatchNorm without affine parameters, there LayerNorm; no auxiliary heads.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.head_kinds import MapHead, MapMulti, MapProgressive, MapPyramid

POOLED = (1, 2, 3, 6)  # parts of each side that context is averaged over
EPS = 1e-6  # of BatchNorm on features, as in the other heads


def count_layers(kind: MapHead) -> int:
    """Count the layers whose maps a head of this kind reads."""
    return kind.layers if isinstance(kind, MapMulti | MapPyramid) else 1


def count_finer(kind: MapHead, flat: bool) -> int:
    """Count the places that a side of the answer has for each of the finest map."""
    return 2**kind.steps if isinstance(kind, MapProgressive) else 2 if isinstance(kind, MapPyramid) and flat else 1


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Scale maps (B C h w) to ``size`` bilinearly."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear")


class MapClassifier(nn.Module):
    """Maps of one or several layers to logits (B C h w).

    Args:
        widths: channels of the maps, of the layer with the finest map first.
        num_classes: numbers that each place is answered with.
        kind: which head.
        flat: all maps have one size.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, kind: MapHead, flat: bool) -> None:
        super().__init__()
        self.kind, self.widths = kind, list(widths)
        self.norms = nn.ModuleList(_norm(width, kind) for width in widths)
        self.decoder = _create_decoder(widths, kind, flat)
        channels = kind.channels if isinstance(kind, MapPyramid | MapProgressive) else sum(widths)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, maps: Tensor | Sequence[Tensor]) -> Tensor:
        """Answer maps (B C_i h_i w_i), or one tensor with the channels of all where they have one size."""
        parts: Any = maps.split(self.widths, dim=1) if isinstance(maps, Tensor) else maps
        normed = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        return self.classifier(self.decoder(normed))


def _create_decoder(widths: Sequence[int], kind: MapHead, flat: bool) -> nn.Module:
    if isinstance(kind, MapPyramid):
        return Pyramid(widths, kind.channels, flat)
    return Progressive(widths[0], kind.channels, kind.steps) if isinstance(kind, MapProgressive) else SideBySide()


class SideBySide(nn.Module):
    """Maps of all layers, scaled to the finest one, channels side by side."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        return torch.cat([resize(part, size) for part in maps], 1)


class Pyramid(nn.Module):
    """Maps of all layers to one (B channels h w), see the head of this file."""

    def __init__(self, widths: Sequence[int], channels: int, flat: bool) -> None:
        super().__init__()
        *finer, coarsest = widths
        self.laterals = nn.ModuleList(_convolve(width, channels, 1) for width in finer)
        part = max(channels // len(POOLED), 1)
        self.context = nn.ModuleList(nn.Conv2d(coarsest, part, 1) for _ in POOLED)
        self.top = _convolve(coarsest + part * len(POOLED), channels, 3)
        self.upscale = nn.ConvTranspose2d(channels, channels, 2, stride=2) if flat else nn.Identity()
        self.join = _convolve(channels, channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, coarsest = maps
        size = coarsest.shape[-2:]
        pooled = [average_parts(coarsest, parts) for parts in POOLED]
        context = [resize(F.relu(conv(part)), size) for conv, part in zip(self.context, pooled, strict=True)]
        x = self.top(torch.cat([coarsest, *context], 1))
        for lateral, part in [*zip(self.laterals, finer, strict=True)][::-1]:
            side = lateral(part)
            x = side + resize(x, side.shape[-2:])
        return self.join(self.upscale(x))


class Progressive(nn.Module):
    """One map (B width h w) to a finer one (B channels h' w') of 2^steps times the sides."""

    def __init__(self, width: int, channels: int, steps: int) -> None:
        super().__init__()
        widths = [width, *[channels] * (steps - 1)]
        self.convolutions = nn.ModuleList(_convolve(before, channels, 3) for before in widths)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        (x,) = maps
        for convolution in self.convolutions:
            x = convolution(x)
            x = resize(x, [2 * side for side in x.shape[-2:]])
        return x


def average_parts(x: Tensor, parts: int) -> Tensor:
    """Average maps (B C h w) over ``parts`` x ``parts`` cells, as adaptive pooling does, by two products."""
    rows, columns = (_cells(side, parts).to(x) for side in x.shape[-2:])
    return rows @ x @ columns.T


def _cells(side: int, parts: int) -> Tensor:
    """Return the weights (parts side) of the places in the mean of every part."""
    weights = torch.zeros(parts, side)
    for part in range(parts):
        first, end = part * side // parts, -((part + 1) * side // -parts)
        weights[part, first:end] = 1 / (end - first)
    return weights


def _norm(width: int, kind: MapHead) -> nn.Module:
    return nn.BatchNorm2d(width, affine=False, eps=EPS) if kind.batchnorm else nn.Identity()


def _convolve(width: int, channels: int, size: int) -> nn.Module:
    conv = nn.Conv2d(width, channels, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
