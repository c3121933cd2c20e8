"""Weigh the classes of a loss by how rare they are."""

from collections.abc import Sequence

import numpy as np

from vision_peft.data.problems import unknown

CLASS_WEIGHTS = ("none", "balanced")


def compute_class_weights(labels: Sequence[int], classes: int, how: str) -> list[float]:
    """Return a weight for each of `classes` classes, from the labels (0 to `classes` - 1) that training reads.

    "none" weighs all 1. "balanced" is `n / (k * count)` with n labels in k classes that occur, as in scikit-learn:
    over the labels the weights average 1. A class without labels weighs 0, so that label smoothing does not raise it.
    """
    if how not in CLASS_WEIGHTS:
        raise unknown("class weights", how, CLASS_WEIGHTS)
    if how == "none":
        return [1.0] * classes
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=classes).tolist()
    present = sum(count > 0 for count in counts)
    return [len(labels) / (present * count) if count else 0.0 for count in counts]
