"""Losses and figures of grades 0 to K - 1 in an order."""

import torch
import torch.nn.functional as F
from torch import Tensor


def corn_losses(logits: Tensor, grades: Tensor) -> Tensor:
    """Compute the CORN loss of each item (N) from logits N K-1 and grades N.

    Shi et al. 2021, https://arxiv.org/abs/2111.08851, eq. 4: output k is the logit of P(grade > k | grade > k - 1)
    and learns from the items with grade >= k alone. Summed over the outputs this is the negative log likelihood of the
    grade. The paper divides the sum over a batch by the number of its terms; here the mean over items is taken, so
    that parts of a batch add up to the whole.
    """
    ranks = torch.arange(logits.shape[1], device=logits.device)
    above, asked = grades[:, None] > ranks, grades[:, None] >= ranks
    losses = F.binary_cross_entropy_with_logits(logits, above.to(logits.dtype), reduction="none")
    return (losses * asked).sum(1)


def corn_probabilities(logits: Tensor) -> Tensor:
    """Return the probability of each grade (N K) from logits N K-1; float64."""
    above = F.logsigmoid(logits.double()).cumsum(1).exp()  # P(grade > k)
    ones, zeros = above.new_ones(len(above), 1), above.new_zeros(len(above), 1)
    return torch.cat([ones, above], dim=1) - torch.cat([above, zeros], dim=1)


def median_grades(probabilities: Tensor) -> Tensor:
    """Return the grade (N) of probabilities N K as the paper does: how many k have P(grade > k) > 1/2."""
    above = 1 - probabilities.cumsum(1)[:, :-1]
    return (above > 0.5).sum(1)


def quadratic_kappa(counts: Tensor) -> float | None:
    """Return Cohen's kappa with quadratic weights from counts K K, [truth][prediction]; None where it is 0 / 0."""
    counts = counts.double()
    places = torch.arange(len(counts), dtype=torch.float64)
    weights = (places[:, None] - places) ** 2
    expected = counts.sum(1)[:, None] * counts.sum(0) / counts.sum()
    chance = float((weights * expected).sum())
    return 1 - float((weights * counts).sum()) / chance if chance else None
