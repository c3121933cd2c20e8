"""CORN and quadratic kappa against equations written out, a likelihood and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from vision_peft.tasks.grades import corn_losses, corn_probabilities, median_grades, quadratic_kappa


def test_probabilities_are_products_of_conditional_ones():
    logits = torch.tensor([[1.0, -0.5, 2.0]])
    s = [1 / (1 + math.exp(-each)) for each in logits[0].tolist()]
    wanted = [1 - s[0], s[0] * (1 - s[1]), s[0] * s[1] * (1 - s[2]), s[0] * s[1] * s[2]]
    assert corn_probabilities(logits)[0].tolist() == pytest.approx(wanted, abs=1e-12)


def test_the_loss_is_that_of_the_conditional_subsets_and_the_negative_log_likelihood():
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grades = torch.arange(40) % 5
    losses = corn_losses(logits, grades)
    likelihood = corn_probabilities(logits).gather(1, grades[:, None])[:, 0]
    assert torch.allclose(losses, -likelihood.log(), atol=1e-12)
    subsets = [
        torch.nn.functional.binary_cross_entropy_with_logits(
            logits[grades >= k, k], (grades[grades >= k] > k).double(), reduction="sum"
        )
        for k in range(4)
    ]
    assert losses.sum().item() == pytest.approx(sum(each.item() for each in subsets), abs=1e-10)


def test_the_answer_counts_the_steps_that_are_more_likely_than_not():
    probabilities = torch.tensor([[0.6, 0.2, 0.2], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.4, 0.2, 0.4]]).double()
    assert median_grades(probabilities).tolist() == [0, 1, 2, 1]
    logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    above = logits.double().sigmoid().cumprod(1)
    assert median_grades(corn_probabilities(logits)).tolist() == (above > 0.5).sum(1).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_kappa_is_scikit_learns_also_with_absent_grades(seed):
    state = np.random.default_rng(seed)
    truth, predicted = state.integers(0, 4, 50), state.integers(1, 5, 50)  # 4 is never true, 0 never predicted
    counts = torch.zeros(6, 6, dtype=torch.int64)
    for one, other in zip(truth, predicted, strict=True):
        counts[one, other] += 1
    wanted = cohen_kappa_score(truth, predicted, labels=range(6), weights="quadratic")
    assert quadratic_kappa(counts) == pytest.approx(wanted, abs=1e-9)


def test_kappa_of_one_grade_is_not_known():
    assert quadratic_kappa(torch.tensor([[5, 0], [0, 0]])) is None
    assert quadratic_kappa(torch.tensor([[5, 0], [0, 3]])) == 1
