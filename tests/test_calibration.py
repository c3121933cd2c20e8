"""One temperature, found the same every time, and the distance between what a model says and what is true."""

import math

import pytest
import torch

from vision_peft.calibration import Reliability, calibration_error, find_probabilities, fit_temperature, mean_loss


def drawn(temperature: float, number: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `temperature` times too large for labels drawn from them."""
    generator = torch.Generator().manual_seed(0)
    true = 2 * torch.randn(number, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]
    return (temperature * true).float(), labels


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found == pytest.approx(temperature, rel=0.05)
    best = mean_loss(logits, labels, found)
    for other in (0.999 * found, 1.001 * found):
        assert mean_loss(logits, labels, other) > best
    assert fit_temperature(logits, labels) == found
    assert (calibration_error(find_probabilities(logits, found), labels) or 0) < 2.5


def test_answers_keep_their_order_and_only_become_less_sure() -> None:
    logits, _ = drawn(3.0, number=50)
    plain, warm = find_probabilities(logits), find_probabilities(logits, 3.0)
    assert torch.equal(plain.argsort(1), warm.argsort(1))
    assert bool((warm.max(1).values < plain.max(1).values).all())
    torch.testing.assert_close(plain, logits.softmax(1))


def test_where_no_temperature_is_best_there_is_none() -> None:
    right = torch.eye(3) * 4
    assert fit_temperature(right, torch.arange(3)) is None, "all right: the surer the better"
    assert fit_temperature(right, torch.tensor([1, 2, 0])) is None, "all wrong: the less sure the better"
    assert fit_temperature(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)) is None
    assert fit_temperature(torch.full((2, 3), math.nan), torch.tensor([0, 1])) is None


def test_answers_that_are_not_finite_are_left_out() -> None:
    logits, labels = drawn(2.0, number=200)
    with_nan = torch.cat([logits, torch.tensor([[math.nan, 0, 0, 0, 0], [math.inf, 0, 0, 0, 0]])])
    assert fit_temperature(with_nan, torch.cat([labels, labels[:2]])) == fit_temperature(logits, labels)


def test_the_calibration_error_is_the_sum_over_fifteen_bins() -> None:
    # Two bins: 0.9 sure and right in 3 of 4 cases; 0.5 sure (on the edge of none) and right in 1 of 2.
    sure = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.5, 0.5], dtype=torch.float64)
    probabilities = torch.stack([sure, 1 - sure], 1)
    probabilities[4:, 0] += 1e-9
    labels = torch.tensor([0, 0, 0, 1, 0, 1])
    expected = 100 * (4 / 6 * abs(0.75 - 0.9) + 2 / 6 * abs(0.5 - 0.5))
    assert calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-6)
    # a probability on the edge of two bins belongs to the lower one; 1 to the last
    edge = torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.601, 0.399]], dtype=torch.float64)
    assert calibration_error(edge, torch.tensor([0, 0, 1])) == pytest.approx(100 * (0.4 + 0.601) / 3)
    # the last two bins are two
    last = torch.tensor([[0.9, 0.1], [0.95, 0.05]], dtype=torch.float64)
    assert calibration_error(last, torch.tensor([0, 1])) == pytest.approx(100 * (0.1 + 0.95) / 2)


def test_answers_may_come_in_parts() -> None:
    logits, labels = drawn(2.0, number=100)
    parts = Reliability()
    assert parts.error is None
    for logit, label in zip(logits.split(30), labels.split(30), strict=True):
        parts.add(find_probabilities(logit), label)
    assert parts.error == pytest.approx(calibration_error(find_probabilities(logits), labels))
