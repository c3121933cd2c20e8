"""Any number of classes an image: a sigmoid and a threshold each, mean average precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vision_peft.config.schema import Recipe
from vision_peft.data.class_weights import weigh_counts
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.targets import Targets
from vision_peft.tasks.answers import Guess
from vision_peft.tasks.label_sets import (
    MIDDLE,
    asymmetric_loss,
    average_precisions,
    choose_thresholds,
    count_right,
    f1_by_class,
    precision_recall,
)
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.pictures import Curve, draw_curves
from vision_peft.tasks.task import KeptOutputs, Loss, Task

ASYMMETRIC = {"gamma_pos": 0.0, "gamma_neg": 4.0, "margin": 0.05}  # as the paper trains with
PICTURE = "precision_recall.png"
MOST_POINTS = 200  # of a curve that is drawn


@dataclass(frozen=True, kw_only=True)
class SetMetrics(Metrics):
    """Figures in percent; None is what the split cannot tell. Classes without a positive have no average precision."""

    map: float | None  # mean of `per_class`
    f1_micro: float
    f1_macro: float | None  # mean over the classes that are there or predicted
    exact_match: float
    per_class: dict[str, float | None]  # average precision by class
    f1_per_class: dict[str, float | None]
    curves: list[Curve] = field(repr=False)

    @property
    def figures(self) -> Mapping[str, float | None]:
        return {name: getattr(self, name) for name in ("map", "f1_micro", "f1_macro", "exact_match")}

    def describe(self) -> str:
        mean = "" if self.map is None else f"mAP {self.map:.2f} %  "
        macro = "" if self.f1_macro is None else f"  macro F1 {self.f1_macro:.2f} %"
        return (
            f"{mean}micro F1 {self.f1_micro:.2f} %{macro}  exact match {self.exact_match:.2f} %  "
            f"loss {self.loss:.4f}  ({self.describe_items()})"
        )

    def to_row(self) -> dict[str, Any]:
        return {**super().to_row(), "per_class": self.per_class}

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        return {PICTURE: lambda path: draw_curves(path, self.curves, self.per_class)}


class SetLoss(Loss):
    """The loss of each class, by weight, as the mean over images and classes; `table` gives labels their sets."""

    table: Tensor
    weights: Tensor | None

    def __init__(self, table: np.ndarray, asymmetric: bool, smoothing: float, weights: Tensor | None) -> None:
        super().__init__()
        self.asymmetric, self.smoothing = asymmetric, smoothing
        self.register_buffer("table", torch.from_numpy(np.asarray(table, dtype=np.float32)), persistent=False)
        self.register_buffer("weights", weights, persistent=False)  # 2 C: of negatives, of positives

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        truth = self.table[targets].to(outputs)
        if self.asymmetric:
            losses = asymmetric_loss(outputs, truth, **ASYMMETRIC)
        else:
            smooth = truth * (1 - self.smoothing) + self.smoothing / 2
            losses = F.binary_cross_entropy_with_logits(outputs, smooth, reduction="none")
        if self.weights is not None:
            negative, positive = self.weights.to(outputs)
            losses = losses * torch.where(truth > 0, positive, negative)
        return losses.mean()


class Multilabel(Task):
    """Any number of classes an image.

    Args:
        thresholds: of the probability of each class, chosen on val; None: 0.5.
    """

    kind = "multilabel"
    metric = "map"
    watched = ("map", "f1_micro")
    words: ClassVar = {
        "map": "mAP, %",
        "f1_micro": "micro F1, %",
        "f1_macro": "macro F1, %",
        "exact_match": "exact match, %",
    }
    losses = ("bce", "asymmetric")
    ranks_names = False
    outputs_are = "a logit for each class, which is an answer where the sigmoid reaches the threshold of that class"
    in_numpy = """    shares, least = 1 / (1 + np.exp(-logits)), task.get("thresholds") or [0.5] * len(names)
    answer = ", ".join(f"{name} {p:.4f}" for name, p, each in zip(names, shares, least) if p >= each)
"""
    fits_on_val = "thresholds are 0.5"

    def __init__(
        self,
        classes: Sequence[str],
        targets: Targets | None = None,
        thresholds: Sequence[float] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(classes, targets, **fields)
        self.chosen = thresholds is not None
        self.thresholds = [MIDDLE] * len(self.classes) if thresholds is None else list(thresholds)
        sound = all(type(each) in (int, float) and 0 <= each <= 1 for each in self.thresholds)
        if len(self.thresholds) != len(self.classes) or not sound:
            raise ValueError(f"thresholds must be {len(self.classes)} numbers from 0 to 1, one for each class")

    def record(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds} if self.chosen else {}

    def truth(self, labels: Tensor) -> Tensor:
        """Return what labels N stand for, N C of 0 and 1."""
        assert self.targets is not None
        assert self.targets.values is not None
        return torch.from_numpy(self.targets.values[labels.numpy()])

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.double().sigmoid().float()

    def name_answers(self, outputs: Tensor, top: int = 5) -> list[list[Guess]]:
        found = []
        for row in self.probabilities(outputs).tolist():
            named = zip(self.classes, row, self.thresholds, strict=True)
            found.append(sorted([(name, p) for name, p, least in named if p >= least], key=lambda guess: -guess[1]))
        return found

    def say(self, guesses: Sequence[Guess]) -> str:
        return ", ".join(name for name, _ in guesses) or "none of the classes"

    def to_json(self, guesses: Sequence[Guess]) -> dict[str, Any]:
        return {"labels": [[name, p] for name, p in guesses]}

    def to_cells(self, guesses: Sequence[Guess]) -> dict[str, Any]:
        labels, chances = ([guess[part] for guess in guesses] for part in (0, 1))
        return {"labels": ";".join(map(str, labels)), "probabilities": ";".join(f"{p:.6g}" for p in chances)}

    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> SetLoss:
        assert self.targets is not None
        assert self.targets.values is not None
        asymmetric = recipe.loss == "asymmetric"
        if asymmetric and recipe.label_smoothing:
            raise ValueError("recipe.loss=asymmetric takes recipe.label_smoothing=0: it is of labels that are 0 or 1")
        weights = _weigh(recipe, count_positives(train_set), len(train_set))
        return SetLoss(self.targets.values, asymmetric, recipe.label_smoothing, weights)

    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        truth = self.truth(labels).to(outputs)
        return F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").mean(1).sum()

    def start_tally(self) -> "SetTally":
        return SetTally(self)

    def fit_on_val(self, outputs: Tensor, labels: Tensor) -> Self:
        thresholds = choose_thresholds(self.probabilities(outputs), self.truth(labels))
        return type(self)(self.classes, self.targets, thresholds=thresholds)

    def describe_fit(self) -> str:
        named = zip(self.classes[:8], self.thresholds, strict=False)
        more = ", ..." * (len(self.classes) > 8)
        return f"thresholds chosen on val: {', '.join(f'{name} {each:.3f}' for name, each in named)}{more}"


class SetTally(KeptOutputs):
    """Probabilities of all items."""

    def compute(self, shared: Mapping[str, Any]) -> SetMetrics:
        task = self.task
        assert isinstance(task, Multilabel)
        scores, truth = task.probabilities(self.outputs), task.truth(self.labels)
        found = scores.double() >= torch.tensor(task.thresholds, dtype=torch.float64)
        right, predicted, true = count_right(found, truth)
        precisions, f1 = average_precisions(scores, truth), f1_by_class(right, predicted, true)
        either = int(predicted.sum() + true.sum())
        return SetMetrics(
            **shared,
            map=_mean(precisions),
            f1_micro=100 * 2 * int(right.sum()) / either if either else 100.0,
            f1_macro=_mean(f1),
            exact_match=100 * int((found == truth.bool()).all(1).sum()) / len(found),
            per_class=_by_class(task.classes, precisions),
            f1_per_class=_by_class(task.classes, f1),
            curves=[
                Curve.of(name, *precision_recall(own, one), MOST_POINTS)
                for name, own, one in zip(task.classes, scores.T, truth.T, strict=True)
                if one.any()
            ],
        )


def count_positives(dataset: ImageDataset) -> np.ndarray:
    """Count the images of each class (C)."""
    assert dataset.targets is not None
    assert dataset.targets.values is not None
    values = dataset.targets.values
    times = np.bincount(np.asarray(dataset.labels), minlength=len(values))
    return times @ values.astype(np.int64)


def _weigh(recipe: Recipe, positives: np.ndarray, images: int) -> Tensor | None:
    """Return the weights of negatives and positives of each class (2 C), by which both count alike, or as given."""
    given, classes = recipe.class_weights, len(positives)
    if given is None:
        return None
    if isinstance(given, str):
        pairs = [weigh_counts([images - count, count], given, recipe.effective_beta) for count in positives.tolist()]
        return torch.tensor(pairs, dtype=torch.float64).T.contiguous()
    if len(given) != classes:
        raise ValueError(f"recipe.class_weights must be {classes} numbers, one for each class; got {len(given)}")
    return torch.tensor([given, given], dtype=torch.float64)


def _mean(values: Tensor) -> float | None:
    known = values[~values.isnan()]
    return 100 * float(known.mean()) if len(known) else None


def _by_class(classes: Sequence[str], values: Tensor) -> dict[str, float | None]:
    return {name: None if value != value else 100 * value for name, value in zip(classes, values.tolist(), strict=True)}
