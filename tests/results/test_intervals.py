"""Intervals and paired tests against scipy's, and against resampling item by item."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from vision_peft.packed_bits import pack_bits
from vision_peft.results.intervals import (
    bootstrap_interval,
    compare_paired,
    compare_rows,
    compute_sign_test,
    find_interval,
)


def draw(share: float, number: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(number) < share


def resample(values: np.ndarray) -> tuple[float, float]:
    """The percentiles of the mean over 20,000 resamples of single items."""
    generator = np.random.default_rng(1)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(20_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * low, 100 * high


@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_the_interval_of_one_seed_is_that_of_scipy(share: float) -> None:
    bits = draw(share)
    expected = stats.bootstrap(
        (bits.astype(float),), np.mean, n_resamples=20_000, method="percentile", vectorized=True, rng=2
    ).confidence_interval
    found = bootstrap_interval(bits)
    assert found.mean == pytest.approx(100 * bits.mean())
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.4)
    assert found == bootstrap_interval(bits)
    assert found.mean in found
    assert found.high + 0.1 not in found


def test_that_of_several_seeds_resamples_items_and_not_seeds() -> None:
    hard = draw(0.5)
    seeds = [np.where(hard, draw(0.95, seed=1 + seed), draw(0.4, seed=11 + seed)) for seed in range(3)]
    found = bootstrap_interval(seeds)
    assert found.mean == pytest.approx(100 * np.mean(seeds))
    assert (found.low, found.high) == pytest.approx(resample(np.mean(seeds, axis=0)), abs=0.4)
    assert bootstrap_interval(np.stack(seeds)) == found
    assert bootstrap_interval([seeds[0]] * 3) == bootstrap_interval(seeds[0])


def test_two_are_compared_item_by_item() -> None:
    a, b = draw(0.8), draw(0.8) & draw(0.95, seed=3)
    found = compare_paired(a, b)
    assert (found.better, found.worse) == (int((a & ~b).sum()), 0)
    difference = a.astype(float) - b
    assert found.difference.mean == pytest.approx(100 * difference.mean())
    assert (found.difference.low, found.difference.high) == pytest.approx(resample(difference), abs=0.4)
    assert found.differs
    back = compare_paired(b, a)
    assert (back.better, back.worse, back.p_value) == (found.worse, found.better, found.p_value)
    # apart, the same accuracies tell nothing: 15 of 300 items are within the interval
    assert bootstrap_interval(b).mean in bootstrap_interval(a)


def test_seeds_are_compared_by_their_mean_on_each_item() -> None:
    a = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]], bool)
    b = np.array([[1, 0, 0, 1], [1, 1, 0, 1]], bool)
    found = compare_paired(a, b)  # means 1, 1/3, 1/3, 1/3 and 1, 1/2, 0, 1
    assert (found.better, found.worse, found.p_value) == (1, 2, 1.0)
    assert found.difference.mean == pytest.approx(100 * (2 / 4 - 2.5 / 4))
    same = compare_paired(a, a)
    assert (same.difference.low, same.difference.high, same.p_value) == (0, 0, 1)


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (1, 0), (5, 0), (6, 0), (3, 9), (40, 41), (700, 800), (30_000, 31_000)]
)
def test_the_sign_test_is_the_exact_binomial_one(better: int, worse: int) -> None:
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert compute_sign_test(better, worse) == pytest.approx(expected, rel=1e-6)
    assert compute_sign_test(worse, better) == compute_sign_test(better, worse)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones(3), np.ones(4), "same items can be compared, got 3 and 4"),
        (np.ones(0), np.ones(0), r"at least one; got \[0\]"),
        ([np.ones(2), np.ones(3)], np.ones(2), r"of every seed, at least one; got \[2, 3\]"),
        ([], np.ones(2), "got no seed"),
    ],
)
def test_answers_to_other_items_are_refused(a: Any, b: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(a, b)


def test_rows_are_compared_where_they_are_known_to_have_the_same_items(make_row: Any) -> None:
    bits = [draw(0.9, 597), draw(0.8, 597, 4), draw(0.7, 597, 5)]
    rows = [make_row(seed=seed, data_digest="d", correct=pack_bits(own)) for seed, own in enumerate(bits)]
    assert find_interval(*rows) == bootstrap_interval(bits)
    assert compare_rows(rows[:1], rows[1:]) == compare_paired(bits[0], bits[1:])
    for other in (
        make_row(correct=pack_bits(bits[1])),
        make_row(correct=pack_bits(bits[1]), data_digest="e"),
        make_row(data_digest="d"),
    ):
        assert compare_rows(rows[:1], [other]) is None
        assert find_interval(rows[0], other) is None
    assert find_interval(make_row(correct=pack_bits(bits[1]))) == bootstrap_interval(bits[1])
    assert find_interval(make_row()) is None
    assert find_interval() is None
