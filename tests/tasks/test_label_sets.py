"""Losses and figures of sets of labels against scikit-learn and equations written out."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from vision_peft.tasks.label_sets import (
    asymmetric_loss,
    average_precisions,
    choose_thresholds,
    count_right,
    f1_by_class,
    precision_recall,
)


def draw(seed: int, items: int = 60, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with many ties, in float32, and truth in which class 3 never occurs and class 4 always."""
    state = np.random.default_rng(seed)
    scores = torch.from_numpy(state.integers(0, 12, (items, classes)) / 11).float()
    truth = torch.from_numpy(state.random((items, classes)) < 0.3).to(torch.uint8)
    truth[:, 3], truth[:, 4] = 0, 1
    return scores, truth


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_scikit_learns_also_with_ties_and_absent_classes(seed):
    scores, truth = draw(seed)
    found = average_precisions(scores, truth)
    for place in (0, 1, 2, 4):
        assert found[place].item() == pytest.approx(
            average_precision_score(truth[:, place], scores[:, place]), abs=1e-9
        )
    assert math.isnan(found[3])


def test_precision_and_recall_are_those_of_each_distinct_score():
    scores, truth = draw(0)
    precision, recall = precision_recall(scores[:, 0], truth[:, 0])
    wanted_precision, wanted_recall, _ = precision_recall_curve(truth[:, 0], scores[:, 0])
    assert precision.flip(0).tolist() == pytest.approx(wanted_precision[:-1].tolist(), abs=1e-12)
    assert recall.flip(0).tolist() == pytest.approx(wanted_recall[:-1].tolist(), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_scikit_learns(seed):
    scores, truth = draw(seed)
    predicted = scores > 0.6
    predicted[:, 3] = False
    right, named, true = count_right(predicted, truth)
    by_class = f1_by_class(right, named, true)
    wanted = np.asarray(f1_score(truth, predicted, average=None, zero_division=np.nan))  # pyright: ignore[reportArgumentType]
    assert by_class.tolist() == pytest.approx(wanted.tolist(), abs=1e-9, nan_ok=True)
    assert math.isnan(by_class[3])
    micro = 2 * int(right.sum()) / int(named.sum() + true.sum())
    assert micro == pytest.approx(f1_score(truth, predicted, average="micro"), abs=1e-9)


def test_no_other_threshold_has_a_better_f1():
    scores, truth = draw(1)
    chosen = choose_thresholds(scores, truth)
    assert chosen[3] == 0.5
    for place in (0, 1, 2, 4):
        levels = sorted({*scores[:, place].tolist()})
        middles = [(one + two) / 2 for one, two in zip([0.0, *levels], levels, strict=False)]
        best = max(f1_score(truth[:, place], scores[:, place].double() >= level) for level in middles)
        own = f1_score(truth[:, place], scores[:, place].double() >= chosen[place])
        assert own == pytest.approx(best, abs=1e-12)
        assert min(abs(chosen[place] - level) for level in levels if level) > 1e-3  # halfway: no score lies on it


def test_of_thresholds_that_are_as_good_the_highest_is_taken_and_lies_halfway():
    scores, truth = torch.tensor([[0.9], [0.7], [0.2], [0.1]]), torch.tensor([[1], [0], [1], [0]])
    # F1 at 0.9: 2/3, at 0.7: 1/2, at 0.2: 4/5
    assert choose_thresholds(scores, truth) == pytest.approx([(0.2 + 0.1) / 2])
    assert choose_thresholds(scores[:2], truth[:2]) == pytest.approx([0.8])
    assert choose_thresholds(scores, torch.ones_like(truth)) == pytest.approx([0.05])
    # at 0.9 and at 0.2 alike, 2/3
    four = torch.tensor([[1], [0], [0], [1]])
    assert choose_thresholds(torch.tensor([[0.9], [0.7], [0.2], [0.1]]), four) == pytest.approx([0.8])


def test_the_asymmetric_loss_is_that_of_the_paper():
    logits = torch.tensor([[2.0, -1.0, -4.0, 0.5]], dtype=torch.float64, requires_grad=True)
    truth = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    losses = asymmetric_loss(logits, truth, gamma_pos=1.0, gamma_neg=4.0, margin=0.05)
    p = [1 / (1 + math.exp(-each)) for each in logits[0].tolist()]
    wanted = [
        -(1 - p[0]) * math.log(p[0]),
        -((p[1] - 0.05) ** 4) * math.log(1 - (p[1] - 0.05)),
        0.0,  # p is below the margin
        -(1 - p[3]) * math.log(p[3]),
    ]
    assert losses[0].tolist() == pytest.approx(wanted, abs=1e-12)
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert torch.autograd.gradcheck(
        lambda x: asymmetric_loss(x, truth[:, :2], 1.0, 4.0, 0.05), logits[:, :2].detach().requires_grad_()
    )


def test_the_asymmetric_loss_without_powers_and_margin_is_binary_cross_entropy_also_far_out():
    logits = torch.tensor([[30.0, -30.0, 200.0, -200.0, 0.0]])
    truth = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0]])
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    assert torch.allclose(asymmetric_loss(logits, truth, 0.0, 0.0, 0.0), plain)
    wrong = asymmetric_loss(logits, 1 - truth, 0.0, 4.0, 0.05)
    assert wrong.isfinite().all()
