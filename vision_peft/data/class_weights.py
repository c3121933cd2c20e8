"""Weigh the classes of a loss by how rare they are."""

from collections.abc import Sequence

import numpy as np

from vision_peft.data.problems import unknown

CLASS_WEIGHTS = ("none", "balanced", "effective")
BETA = 0.999  # of the effective number of samples; the paper tries 0.9 to 0.9999


def compute_class_weights(labels: Sequence[int], classes: int, how: str, beta: float = BETA) -> list[float]:
    """Return a weight for each of `classes` classes, from the labels (0 to `classes` - 1) that training reads."""
    if how not in CLASS_WEIGHTS:
        raise unknown("class weights", how, CLASS_WEIGHTS)
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=classes).tolist()
    return weigh_counts(counts, how, beta)


def weigh_counts(counts: Sequence[int], how: str, beta: float = BETA) -> list[float]:
    """Return a weight for each class from how many labels it has.

    "none" weighs all 1. "balanced" is `n / (k * count)` with n labels in k classes that occur, as in scikit-learn.
    "effective" is in proportion to `(1 - beta) / (1 - beta ** count)`, one over the effective number of samples (Cui et
    al. 2019, https://arxiv.org/abs/1901.05555): the nearer beta is to 1, the nearer it is to "balanced", its limit.
    Over the labels both average 1 (the paper has its weights sum to the number of classes). A class without labels
    weighs 0, so that label smoothing does not raise it.
    """
    if how == "none":
        return [1.0] * len(counts)
    present, total = sum(count > 0 for count in counts), sum(counts)
    if how == "balanced" or beta == 1:
        return [total / (present * count) if count else 0.0 for count in counts]
    inverse = [(1 - beta) / (1 - beta**count) if count else 0.0 for count in counts]
    scale = total / sum(count * each for count, each in zip(counts, inverse, strict=True)) if total else 0.0
    return [scale * each for each in inverse]
