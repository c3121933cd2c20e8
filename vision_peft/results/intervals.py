"""How far an accuracy would move with other test items, and whether two trainings differ: by resampling these items.

Bootstrap: n items are drawn from the n test items with replacement, `RESAMPLES` times, and the interval lies between
the 2.5th and the 97.5th percentile of the mean (Efron and Tibshirani 1993, chapter 13). Of several seeds the value of
an item is the mean over them, so that items are resampled and seeds are not. Values are few (0 and 1, or shares of the
seeds), and how often each of them is drawn is a multinomial number: so resamples are drawn as counts, which is the same
distribution and takes no longer for a million items. An accuracy of 0 or 100 % has an interval without width.

Sign test: of the items on which two differ, either is the better one with probability one half if they are equally good
(binomial, exact, two-sided). Of one seed it is McNemar's exact test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision_peft.results.row import Row, find_correct

RESAMPLES = 10_000
LEVEL = 0.95
_SEED = 0  # of the resamples, so that the same answers give the same interval
Answers = np.ndarray | Sequence[np.ndarray]  # which items were answered right: bits N, or S N of several seeds


@dataclass(frozen=True)
class Interval:
    """A mean over test items in percent, and the bounds of 95 % of its resamples."""

    mean: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Comparison:
    """What test items say of two trainings, A and B."""

    difference: Interval  # accuracy of A minus that of B, in points
    better: int  # items on which A is better
    worse: int  # items on which B is better
    p_value: float  # of the sign test

    @property
    def differs(self) -> bool:
        """Whether the sign test tells them apart."""
        return self.p_value < 1 - LEVEL


def bootstrap_interval(answers: Answers) -> Interval:
    """Compute the accuracy of one training, or the mean over its seeds, with its interval.

    Raises:
        ValueError: answers to no items, or seeds with different numbers of items.
    """
    return _bootstrap(_average(answers))


def compare_paired(a: Answers, b: Answers) -> Comparison:
    """Compare two trainings by their answers to the same items; those of several seeds by their mean, item by item.

    Args:
        a: of one training, one seed or several.
        b: of the other one, the same items in the same order; the number of seeds may be another.

    Raises:
        ValueError: answers to no items, or different numbers of items.
    """
    first, second = _average(a), _average(b)
    if len(first) != len(second):
        raise ValueError(f"only answers to the same items can be compared, got {len(first):,} and {len(second):,}")
    differences = first - second
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(_bootstrap(differences), better, worse, compute_sign_test(better, worse))


def find_interval(*rows: Row) -> Interval | None:
    """Compute the interval of a row, or of the rows of several seeds.

    None where a row does not know which items were answered right, or rows are not known to have the same items.
    """
    answers = find_answers(rows)
    return None if answers is None else bootstrap_interval(answers)


def compare_rows(a: Sequence[Row], b: Sequence[Row]) -> Comparison | None:
    """Compare the rows of the seeds of two settings; None as of `find_interval`."""
    if find_answers([*a, *b]) is None:
        return None
    return compare_paired(find_answers(a) or [], find_answers(b) or [])


def find_answers(rows: Sequence[Row]) -> list[np.ndarray] | None:
    """Return the bits of every row; None where they are not known or not known to be of the same items."""
    bits = [find_correct(row) for row in rows]
    known = [own for own in bits if own is not None and len(own)]
    items = {(row.dataset, row.task, row.n_test, row.data_digest) for row in rows}
    of_same = len(rows) == 1 or (len(items) == 1 and rows[0].data_digest is not None)
    return known if known and len(known) == len(bits) and of_same else None


def compute_sign_test(better: int, worse: int) -> float:
    """Return how probable it is that so many throws of a fair coin fall at least as unevenly, to either side."""
    number, fewer = better + worse, min(better, worse)
    if 2 * fewer == number:
        return 1.0
    whole = math.lgamma(number + 1) - number * math.log(2)
    logs = [whole - math.lgamma(k + 1) - math.lgamma(number - k + 1) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _bootstrap(values: np.ndarray) -> Interval:
    """Resample values N, one for each item, and return their mean with percentiles of the resamples' means."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(_SEED).multinomial(len(values), counts / len(values), size=RESAMPLES)
    outside = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn @ distinct / len(values), [outside, 100 - outside])
    return Interval(*(100 * float(value) for value in (values.mean(), low, high)))


def _average(answers: Answers) -> np.ndarray:
    """Return the mean over seeds, N."""
    seeds = np.atleast_2d(answers) if isinstance(answers, np.ndarray) else answers
    sizes = [len(own) for own in seeds]
    if len(set(sizes)) != 1 or not sizes[0]:
        raise ValueError(f"wanted answers to the same items of every seed, at least one; got {sizes or 'no seed'}")
    return np.mean(np.stack([*seeds]).astype(float), axis=0)
