"""One of several classes: softmax and cross entropy, accuracy."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vision_peft.calibration import Reliability, find_probabilities, fit_temperature
from vision_peft.config.schema import Recipe
from vision_peft.data.class_weights import compute_class_weights
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.targets import Targets
from vision_peft.distributed.processes import all_gather, all_gather_tensors, all_reduce_sum
from vision_peft.packed_bits import pack_bits
from vision_peft.printable import for_csv
from vision_peft.safe_files import write_file
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.task import Loss, Tally, Task

LARGEST_CONFUSION = 400
MOST_HARDEST = 12  # wrong answers that a row lists
CONFUSION = "confusion.csv"


@dataclass(frozen=True, kw_only=True)
class ClassMetrics(Metrics):
    """Figures in percent; None is what the split cannot tell.

    An undecodable image counts as a wrong answer in every accuracy, and so does one that the model answers with NaN or
    infinity. Neither has a prediction, so `pairs` and `loss` are those of the others. A video is one item, whose
    answer is the mean over its views; it is undecodable where one of them is.
    """

    top1: float
    top5: float | None  # None with five classes or fewer, where it would say nothing
    mean_per_class: float  # mean over the classes that have images
    per_class: dict[str, float | None]  # by class name; None: no image of it
    pairs: list[tuple[int, int, int]]  # truth, prediction, how often; in this order
    ece: float | None = None  # expected calibration error in percent, 15 bins; of the answers that have a prediction
    ece_raw: float | None = None  # the same without the temperature; equal to `ece` where there is none
    hardest: list[tuple[float, int, int, int]] = field(default_factory=list)  # see `ClassTally.hardest`
    correct: str | None = None  # which items were answered right, in their order: `packed_bits`; None: not known

    @property
    def confusion(self) -> list[list[int]] | None:
        """Counts [truth][prediction]; None above `LARGEST_CONFUSION` classes, where they grow with the square."""
        if len(self.per_class) > LARGEST_CONFUSION:
            return None
        counts = [[0] * len(self.per_class) for _ in self.per_class]
        for truth, predicted, count in self.pairs:
            counts[truth][predicted] = count
        return counts

    @property
    def figures(self) -> Mapping[str, float | None]:
        names = ("top1", "top5", "mean_per_class", "ece", "ece_raw")
        return {name: getattr(self, name) for name in names}

    def to_row(self) -> dict[str, Any]:
        return {
            **self.figures,
            "n_bad": self.bad,
            "n_non_finite": self.non_finite,
            "per_class": self.per_class,
            "confusion": self.confusion,
            "correct": self.correct,
        }

    def list_hardest(self) -> list[tuple[int, str, str, float]]:
        names = [*self.per_class]
        return [(item, names[truth], names[answer], sure) for sure, item, truth, answer in self.hardest]

    def describe(self) -> str:
        top5 = "" if self.top5 is None else f"  top-5 {self.top5:.2f} %"
        return (
            f"top-1 {self.top1:.2f} %{top5}  mean per class {self.mean_per_class:.2f} %  "
            f"loss {self.loss:.4f}  ({self.describe_items()})"
        )

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        return {CONFUSION: lambda path: write_confusion(path, self)}


def write_confusion(path: Path, metrics: Any) -> None:
    """Write the confusion matrix as CSV: a row per true class, a column per predicted one.

    Above `LARGEST_CONFUSION` classes it has a row per pair that occurs: true class, predicted class, count.
    """
    names, matrix = [for_csv(name) for name in metrics.per_class], metrics.confusion
    with io.StringIO(newline="") as file:
        writer = csv.writer(file)
        if matrix is not None:
            writer.writerow(["true \\ predicted", *names])
            writer.writerows([name, *counts] for name, counts in zip(names, matrix, strict=True))
        else:
            writer.writerow(["true", "predicted", "count"])
            writer.writerows([names[truth], names[predicted], count] for truth, predicted, count in metrics.pairs)
        write_file(path, file.getvalue())


class CrossEntropy(Loss):
    """The mean cross entropy of logits B C and labels B, or soft targets B C.

    With class weights w it is the sum of `w[label] * entropy` over the images, divided by their number and not by the
    sum of their weights: so parts of a batch and processes add up to the whole, whatever classes they got.

    With `shift` C the logits are adjusted first, as Menon et al. 2021 (https://arxiv.org/abs/2007.07314, eq. 10) do by
    tau · log of each class's share of train. Answers are the plain logits: those of balanced classes.
    """

    weights: Tensor | None
    shift: Tensor | None

    def __init__(
        self, smoothing: float = 0.0, weights: Sequence[float] | None = None, shift: Tensor | None = None
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        exact = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", exact, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.shift is not None:
            outputs = outputs + self.shift.to(outputs)
        if self.weights is None:
            return F.cross_entropy(outputs, targets, label_smoothing=self.smoothing)
        weights = self.weights.to(outputs)
        summed = F.cross_entropy(outputs, targets, weight=weights, label_smoothing=self.smoothing, reduction="sum")
        return summed / len(outputs)


class Classes(Task):
    """One of several classes.

    Args:
        temperature: of the probabilities, fitted on val; see `vision_peft.calibration`.
    """

    kind = "classes"
    metric = "top1"
    watched = ("top1", "mean_per_class")
    words: ClassVar = {"top1": "top-1, %", "top5": "top-5, %", "mean_per_class": "mean per class, %"}
    losses = ("cross_entropy",)
    mixes = True
    adjusts_logits = True
    counts_missed = True
    least_classes = 2
    fits_on_val = "probabilities are not calibrated"

    def __init__(
        self, classes: Sequence[str], targets: Targets | None = None, temperature: float | None = None, **fields: Any
    ) -> None:
        super().__init__(classes, targets, **fields)
        self.temperature = temperature

    def record(self) -> dict[str, Any]:
        return {} if self.temperature is None else {"temperature": self.temperature}

    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> CrossEntropy:
        smoothing = 0.0 if recipe.mixup or recipe.cutmix else recipe.label_smoothing  # mixed targets are smooth already
        tau, shift = recipe.logit_adjustment, None
        if tau is not None:
            counts = np.bincount(np.asarray(train_set.labels), minlength=len(self.classes))
            shares = np.maximum(counts, 1) / len(train_set)  # a class without images as if it had one
            shift = torch.from_numpy(tau * np.log(shares))
        loss = CrossEntropy(smoothing, list_class_weights(recipe, train_set), shift)
        if tau is not None:
            loss.remark = (
                f"logit adjustment: {tau:g} times the log of each class's share of train ({shares.min():.3g} to "
                f"{shares.max():.3g}) is added to the logits in the loss, not in answers"
            )
        return loss

    def probabilities(self, outputs: Tensor) -> Tensor:
        return find_probabilities(outputs, self.temperature)

    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="sum")

    def start_tally(self) -> "ClassTally":
        return ClassTally(self)

    def fit_on_val(self, outputs: Tensor, labels: Tensor) -> Self:
        return type(self)(self.classes, self.targets, temperature=fit_temperature(outputs, labels))

    def describe_fit(self) -> str:
        if self.temperature is not None:
            return ""
        return f"{self.fits_on_val}: no temperature is best where all of val or no more than chance is right"

    def describe_test(self, metrics: Metrics) -> str:
        assert isinstance(metrics, ClassMetrics)
        if self.temperature is None or metrics.ece is None:
            return ""
        before, after = f"{metrics.ece_raw:.2f} %", f"{metrics.ece:.2f} %"
        return f"\nexpected calibration error of test: {before}, with temperature {self.temperature:.3g} of val {after}"


def list_class_weights(recipe: Recipe, train_set: ImageDataset) -> list[float] | None:
    """List the weight of each class in the loss; None where all count alike. Words go by the labels.

    Raises:
        ValueError: not as many weights as classes.
    """
    given, classes = recipe.class_weights, len(train_set.classes)
    if given is None or isinstance(given, str):
        return None if given is None else compute_class_weights(train_set.labels, classes, given, recipe.effective_beta)
    if len(given) != classes:
        raise ValueError(f"recipe.class_weights must be {classes} numbers, one for each class; got {len(given)}")
    return list(given)


class ClassTally(Tally):
    """Counts that take as much memory as there are items, however many classes there are."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.classes = len(task.classes)
        self.calibrated, self.raw = Reliability(), Reliability()
        self.pairs: list[Tensor] = [torch.empty(0, dtype=torch.int64)]  # truth x classes + prediction, item by item
        self.places: list[Tensor] = [torch.empty(0, dtype=torch.int64)]  # of these items in the dataset
        self.in_top5 = 0
        self.hardest: list[tuple[float, int, int, int]] = []  # confidence, number of the item, truth, answer

    def count(self, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        answers = outputs.argmax(1)
        self.pairs.append(labels * self.classes + answers)
        self._note_hardest(outputs, labels, answers, indices)
        self.places.append(indices)
        if self.classes > 5:
            self.in_top5 += int((outputs.topk(5).indices == labels[:, None]).sum())
        self.calibrated.add(find_probabilities(outputs, self.task.temperature), labels)
        self.raw.add(find_probabilities(outputs), labels)

    def _note_hardest(self, outputs: Tensor, labels: Tensor, answers: Tensor, indices: Tensor) -> None:
        wrong = answers != labels
        sure = find_probabilities(outputs[wrong], self.task.temperature).amax(1)
        columns = [each[wrong].tolist() for each in (indices, labels, answers)]
        self.hardest = _take_surest([*self.hardest, *zip(sure.tolist(), *columns, strict=True)])

    def gather_into(self, whole: "ClassTally") -> None:
        whole.pairs = list(all_gather_tensors(torch.cat(self.pairs)))
        whole.places = list(all_gather_tensors(torch.cat(self.places)))
        whole.in_top5 = sum(all_gather(self.in_top5))
        whole.hardest = _take_surest([tuple(wrong) for own in all_gather(self.hardest) for wrong in own])
        whole.calibrated, whole.raw = self.calibrated.gather(all_reduce_sum), self.raw.gather(all_reduce_sum)

    def compute(self, shared: Mapping[str, Any]) -> ClassMetrics:
        number, missed = self.classes, torch.tensor(self.bad + self.non_finite, dtype=torch.int64)
        items, (pairs, times) = shared["images"], torch.cat(self.pairs).unique(return_counts=True)
        truth, predicted = pairs // number, pairs % number
        right = torch.bincount(truth, times * (truth == predicted), minlength=number)
        support = torch.bincount(torch.cat([missed, truth.repeat_interleave(times)]), minlength=number)
        present = support > 0
        shares = 100 * right / support
        return ClassMetrics(
            **shared,
            top1=100 * right.sum().item() / items,
            top5=100 * self.in_top5 / items if number > 5 else None,
            mean_per_class=shares[present].mean().item(),
            per_class={name: shares[i].item() if present[i] else None for i, name in enumerate(self.task.classes)},
            pairs=[*zip(truth.tolist(), predicted.tolist(), times.tolist(), strict=True)],
            ece=self.calibrated.error,
            ece_raw=self.raw.error,
            hardest=self.hardest,
            correct=self._pack_correct(items),
        )

    def _pack_correct(self, items: int) -> str | None:
        """Pack which of so many items were answered right; those without an answer were not.

        None where what was evaluated is not each item of a dataset once.
        """
        pairs, places = torch.cat(self.pairs), torch.cat(self.places)
        if len(places.unique()) < len(places) or (len(places) and not 0 <= places.min() <= places.max() < items):
            return None
        bits = torch.zeros(items, dtype=torch.bool)
        bits[places] = pairs // self.classes == pairs % self.classes
        return pack_bits(bits.numpy())


def _take_surest(wrong: list[tuple[float, int, int, int]]) -> list[tuple[float, int, int, int]]:
    return sorted(wrong, key=lambda each: (-each[0], each[1]))[:MOST_HARDEST]
