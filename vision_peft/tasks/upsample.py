"""Scale answers for places (C h w) to pixels, some rows at a time: all classes of a large image take gigabytes."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS_AT_ONCE = 2**24  # of pixels times classes: 64 MB


def upsample(answers: Tensor, size: Sequence[int]) -> Tensor:
    """Scale answers (B C h w) to ``size`` (H, W) bilinearly; a place is the square of pixels that it stands for."""
    size = tuple(size)
    return answers if answers.shape[-2:] == size else F.interpolate(answers, size=size, mode="bilinear")


def upsample_rows(answers: Tensor, size: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows, and what `upsample` makes of answers (C h w) there (C rows W), from top to bottom."""
    height, width = size
    wide = upsample(answers[None], (answers.shape[1], width))[0]
    step = max(NUMBERS_AT_ONCE // (len(answers) * width), 1)
    for top in range(0, height, step):
        rows = torch.arange(top, min(top + step, height), device=answers.device)
        source = ((rows + 0.5) * (answers.shape[1] / height) - 0.5).clamp(min=0)
        above = source.floor().long().clamp(max=answers.shape[1] - 1)
        below = (above + 1).clamp(max=answers.shape[1] - 1)
        share = (source - above).to(wide)[:, None]
        yield slice(top, top + len(rows)), wide[:, above].lerp(wide[:, below], share)


def find_classes(answers: Tensor, size: Sequence[int]) -> Tensor:
    """Return the class of each pixel (H W, int64) of an image of ``size`` by answers for places (C h w)."""
    return torch.cat([logits.argmax(0) for _, logits in upsample_rows(answers, size)])
