"""How sure a model may say it is: one temperature for all logits, and how far stated and true certainty lie apart.

    p = softmax(logits / T)

Guo et al. 2017 (https://arxiv.org/abs/1706.04599): T minimises the mean negative log likelihood of a split that was not
trained on. It moves no answer, only how sure each one is.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

COLDEST, HOTTEST = 0.01, 100.0  # bounds of a temperature
BINS = 15  # of equal width, as in the paper
_STEPS = 60  # halvings of the interval, down to the resolution of a double


def find_probabilities(logits: Tensor, temperature: float | None = None) -> Tensor:
    """Return the probabilities (... C, float32) that logits (... C) stand for; None: without a temperature."""
    return (logits.double() / (temperature or 1.0)).softmax(-1).float()


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Return the temperature that makes the labels most likely; None where no temperature in bounds does.

    The loss is convex in 1 / T, so that where its slope changes sign is found by halving, the same every time.

    Args:
        logits: N C, of answers that were not trained on; rows that are not finite are left out.
        labels: N, from 0.
    """
    finite = logits.isfinite().all(1)
    logits, labels = logits[finite].double(), labels[finite]
    if not len(labels) or logits.shape[1] < 2:
        return None
    logits = logits - logits.logsumexp(1, keepdim=True)
    true = logits.gather(1, labels[:, None]).sum()

    def slope(inverse: float) -> float:
        """Return the derivative of the summed loss by 1 / T."""
        return float(((logits * inverse).softmax(1) * logits).sum() - true)

    low, high = 1 / HOTTEST, 1 / COLDEST
    if not slope(low) < 0 < slope(high):  # all answers are right, or they are no better than chance
        return None
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


class Reliability:
    """Sums over answers, from which the expected calibration error follows.

    Answers are sorted into `BINS` bins of equal width by the probability of the class they name; the error is the mean
    over all answers of the distance between accuracy and mean probability of their bin.
    """

    def __init__(self) -> None:
        self.gaps = torch.zeros(BINS, dtype=torch.float64)  # right answers minus probabilities, by bin
        self.answers = 0

    def add(self, probabilities: Tensor, labels: Tensor) -> None:
        """Take in probabilities N C and labels N, from 0, on the CPU."""
        sure, predicted = probabilities.double().max(1)
        self.count(sure, predicted == labels)

    def count(self, sure: Tensor, right: Tensor) -> None:
        """Take in the probabilities (N, float64) of the classes that answers name, and whether these are right (N)."""
        places = (sure * BINS).ceil().long().sub(1).clamp(0, BINS - 1)  # (0, 1/15], (1/15, 2/15], ...
        self.gaps.index_add_(0, places, right.double() - sure)
        self.answers += len(sure)

    def gather(self, sum_over: Callable[[list[float]], list[float]]) -> "Reliability":
        """Return that of all processes, by a function that sums numbers over them."""
        whole = Reliability()
        *gaps, answers = sum_over([*self.gaps.tolist(), self.answers])
        whole.gaps, whole.answers = torch.tensor(gaps, dtype=torch.float64), round(answers)
        return whole

    @property
    def error(self) -> float | None:
        """The expected calibration error in percent; None without answers."""
        return 100 * float(self.gaps.abs().sum()) / self.answers if self.answers else None


def calibration_error(probabilities: Tensor, labels: Tensor) -> float | None:
    """Return the expected calibration error in percent of probabilities N C for labels N, see `Reliability`."""
    reliability = Reliability()
    reliability.add(probabilities, labels)
    return reliability.error


def mean_loss(logits: Tensor, labels: Tensor, temperature: float | None = None) -> float:
    """Return the mean negative log likelihood of labels N under logits N C at a temperature."""
    return float(F.cross_entropy(logits.double() / (temperature or 1.0), labels))
