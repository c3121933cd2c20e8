"""Sums over the pixels of maps of depths, pixels without a measurement left out.

RMSE √mean((d - d*)²) in metres, AbsRel mean(|d - d*| / d*), and delta1, the share with max(d/d*, d*/d) < 1.25 (Eigen et
al., NeurIPS 2014, https://arxiv.org/abs/1406.2283), each over all pixels of all images together.

Sums are of whole numbers (`UNIT` parts of what is summed) and exact whatever their size, so that figures do not depend
on how images are shared.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

UNIT = 2**20
NEAR = 1.25
WORD = 32  # bits that are summed at once, of up to 2^31 pixels


class DepthSums:
    """Sums over the pixels of predicted depths beside true ones."""

    def __init__(self) -> None:
        self.sums = [0, 0, 0, 0]  # pixels, near ones; squared and relative differences in units

    def add(self, predicted: Tensor, true: Tensor) -> None:
        """Add an image by its predicted and true depths (H W) in metres; true ones of 0 do not count."""
        counts = true > 0
        found, wanted = predicted[counts].double(), true[counts].double()
        difference = found - wanted
        near = torch.maximum(found / wanted, wanted / found.clamp(min=1e-12)) < NEAR
        parts = [difference.square() * UNIT, difference.abs() / wanted * UNIT]
        own = [int(counts.sum()), int(near.sum()), *(sum_exactly(part.round()) for part in parts)]
        self.merge([own])

    def merge(self, others: Iterable[Sequence[int]]) -> None:
        """Add the `sums` of others."""
        self.sums = [sum(column) for column in zip(self.sums, *others, strict=True)]

    def figures(self) -> dict[str, float]:
        """Return `rmse` in metres, `abs_rel` and `delta1` (0..1)."""
        pixels, near, squared, relative = self.sums
        if not pixels:
            raise ValueError("no pixel of the maps has a depth")
        return {
            "rmse": math.sqrt(squared / UNIT / pixels),
            "abs_rel": relative / UNIT / pixels,
            "delta1": near / pixels,
        }


def sum_exactly(values: Tensor) -> int:
    """Sum whole numbers of at least 0 in float64 without rounding, however large: by words of their bits."""
    total, shift = 0, 0
    while values.any():
        low = values.remainder(2.0**WORD)
        total += int(low.long().sum()) << shift
        values, shift = (values - low) / 2.0**WORD, shift + WORD
    return total


def scale_invariant_loss(logs: Tensor, true: Tensor, balance: float = 0.5) -> Tensor:
    """Return the scale-invariant loss of log depths (B H W) beside true depths, the mean over the images.

        mean(g²) - balance · mean(g)²    with g = log d - log d*, of the pixels with a measurement

    Eigen et al., NeurIPS 2014, equation 4; an image without a measurement adds 0.
    """
    counts = true > 0
    pixels = counts.sum((-2, -1)).clamp(min=1)
    gap = torch.where(counts, logs - torch.where(counts, true, 1.0).log(), 0.0)
    mean = gap.sum((-2, -1)) / pixels
    return (gap.square().sum((-2, -1)) / pixels - balance * mean.square()).mean()
