"""Losses and figures of answers that name any number of classes, from scores N C and truth N C of 0 and 1."""

import torch
import torch.nn.functional as F
from torch import Tensor

MIDDLE = 0.5  # threshold of a class that nothing is known of


def asymmetric_loss(logits: Tensor, truth: Tensor, gamma_pos: float, gamma_neg: float, margin: float) -> Tensor:
    """Compute the asymmetric loss of every logit N C (Ridnik et al. 2021, https://arxiv.org/abs/2009.14119, eq. 5-7).

        L+ = (1 - p)^gamma_pos · log p        L- = q^gamma_neg · log(1 - q),  q = max(p - margin, 0)

    and the loss is -y L+ - (1 - y) L-. A negative whose p is below the margin costs nothing. The gradient goes through
    the powers too, as the paper's analysis has it (its code can leave that out).
    """
    p = logits.sigmoid()
    positive = (1 - p) ** gamma_pos * F.logsigmoid(logits)
    shifted = (p - margin).clamp(min=0)
    negative = shifted**gamma_neg * torch.log1p(-shifted.clamp(max=1 - 1e-6))
    return -torch.where(truth > 0, positive, negative)


def average_precisions(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the average precision of each class (C, float64, 0 to 1); NaN where a class has no positive.

    It is the sum of (R_n - R_n-1) · P_n over the thresholds, without interpolation, equal scores being one threshold.
    """
    found = [_average_precision(own, true) for own, true in zip(scores.T, truth.T, strict=True)]
    return torch.tensor(found, dtype=torch.float64)


def precision_recall(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return precision and recall (float64) at each distinct score N of one class, the highest score first."""
    order = scores.argsort(descending=True)
    scores, right = scores[order], truth[order].double().cumsum(0)
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]  # the last of those that score alike
    found = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    return (right / found)[last], (right / right[-1:].clamp(min=1))[last]


def count_right(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return by class (C) how many are true and predicted, predicted, true; all N C of 0 and 1."""
    predicted, truth = predicted.bool(), truth.bool()
    return (predicted & truth).sum(0), predicted.sum(0), truth.sum(0)


def f1_by_class(right: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """Return 2 tp / (predicted + true) by class (C, float64); NaN where a class is neither there nor predicted."""
    return 2 * right.double() / (predicted + true)


def choose_thresholds(scores: Tensor, truth: Tensor) -> list[float]:
    """Choose for each class the threshold of its scores N C with the best F1; a score at or above it names the class.

    It lies halfway between two scores, so that float32 scores lie on one side of it each. Of several that are best
    the highest is taken. A class without positives gets `MIDDLE`.
    """
    return [_choose_threshold(own.double(), true) for own, true in zip(scores.T, truth.T, strict=True)]


def _average_precision(scores: Tensor, truth: Tensor) -> float:
    if not truth.any():
        return torch.nan
    precision, recall = precision_recall(scores, truth)
    return float((recall.diff(prepend=recall.new_zeros(1)) * precision).sum())


def _choose_threshold(scores: Tensor, truth: Tensor) -> float:
    positives = int(truth.sum())
    if not positives:
        return MIDDLE
    _, recall = precision_recall(scores, truth)
    levels, counts = scores.unique(return_counts=True)
    named = counts.flip(0).cumsum(0)  # from the highest score on
    best = int((2 * recall * positives / (named + positives)).argmax())
    levels = levels.flip(0).tolist()
    below = levels[best + 1] if best + 1 < len(levels) else 0.0
    return (levels[best] + below) / 2
