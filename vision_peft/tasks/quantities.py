"""Figures of answers that are numbers, from answers N D and truth N D."""

import math

import torch
from torch import Tensor


def mean_absolute_errors(answers: Tensor, truth: Tensor) -> list[float]:
    """Return the mean absolute error of each target (D)."""
    return _exact_means((answers.double() - truth.double()).abs())


def root_mean_square_errors(answers: Tensor, truth: Tensor) -> list[float]:
    """Return the root of the mean square error of each target (D)."""
    return [math.sqrt(mean) for mean in _exact_means((answers.double() - truth.double()) ** 2)]


def explained_shares(answers: Tensor, truth: Tensor) -> list[float]:
    """Return R2 of each target (D); of one that does not vary 1 where all answers are right, else 0."""
    truth = truth.double()
    centred = truth - torch.tensor(_exact_means(truth), dtype=torch.float64)
    left, whole = _exact_means((answers.double() - truth) ** 2), _exact_means(centred**2)
    return [1 - one / all_ if all_ else float(not one) for one, all_ in zip(left, whole, strict=True)]


def _exact_means(values: Tensor) -> list[float]:
    """Return the mean of each column, rounded once: the same in whatever order the rows are."""
    return [math.fsum(column) / len(column) for column in values.T.tolist()]
