"""Grades in an order: one question a step (CORN), accuracy, mean distance in grades, quadratic kappa."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vision_peft.config.schema import Recipe
from vision_peft.data.dataset import ImageDataset
from vision_peft.tasks.answers import Guess
from vision_peft.tasks.classes import list_class_weights
from vision_peft.tasks.grades import corn_losses, corn_probabilities, median_grades, quadratic_kappa
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.pictures import draw_counts
from vision_peft.tasks.task import KeptOutputs, Loss, Task

PICTURE = "grades.png"


@dataclass(frozen=True, kw_only=True)
class GradeMetrics(Metrics):
    """Accuracy in percent, mean distance in grades; kappa is None where all are of one grade."""

    accuracy: float
    mae: float
    kappa: float | None
    per_class: dict[str, float | None]  # accuracy by grade
    counts: Tensor  # K K, [truth][prediction]

    @property
    def figures(self) -> Mapping[str, float | None]:
        return {"accuracy": self.accuracy, "mae": self.mae, "kappa": self.kappa}

    def describe(self) -> str:
        kappa = "" if self.kappa is None else f"  quadratic kappa {self.kappa:.4f}"
        return (
            f"accuracy {self.accuracy:.2f} %  MAE {self.mae:.4f} grades{kappa}  loss {self.loss:.4f}  "
            f"({self.describe_items()})"
        )

    def to_row(self) -> dict[str, Any]:
        return {**super().to_row(), "per_class": self.per_class, "confusion": self.counts.tolist()}

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        return {PICTURE: lambda path: draw_counts(path, [*self.per_class], self.counts)}


class GradeLoss(Loss):
    """The CORN loss of logits B K-1, by weight of the grade where there are weights."""

    weights: Tensor | None

    def __init__(self, weights: list[float] | None) -> None:
        super().__init__()
        exact = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", exact, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = corn_losses(outputs, targets)
        return (losses if self.weights is None else losses * self.weights.to(losses)[targets]).mean()


class Ordinal(Task):
    """Grades in an order; the answer is the middle one (P(grade > k) above 1/2 for each k below it), as CORN has it."""

    kind = "ordinal"
    nouns = ("grade", "grades")
    metric = "mae"
    lower_is_better = True
    watched = ("accuracy", "mae")
    words: ClassVar = {"accuracy": "accuracy, %", "mae": "MAE, grades", "kappa": "quadratic kappa"}
    losses = ("corn",)
    expects = True
    outputs_are = (
        "one logit fewer than there are grades (CORN): the answer is how many running products of sigmoids exceed 1/2"
    )
    classes_have_outputs = False
    in_numpy = """    above = np.cumprod(1 / (1 + np.exp(-logits)))
    shares, grade = -np.diff([1, *above, 0]), int((above > 0.5).sum())
    answer = f"{names[grade]} {shares[grade]:.4f}"
"""
    least_classes = 2

    @property
    def outputs(self) -> int:
        return len(self.classes) - 1

    def probabilities(self, outputs: Tensor) -> Tensor:
        return corn_probabilities(outputs).float()

    def name_answers(self, outputs: Tensor, top: int = 5) -> list[list[Guess]]:
        chances = corn_probabilities(outputs)
        found = []
        for row, answer in zip(chances.tolist(), median_grades(chances).tolist(), strict=True):
            others = sorted((place for place in range(len(row)) if place != answer), key=lambda place: -row[place])
            found.append([(self.classes[place], row[place]) for place in [answer, *others][:top]])
        return found

    def expect(self, outputs: Tensor) -> list[float]:
        # of grades that are numbers in these, else counted from 0
        numbered = all(name.lstrip("+-").isdigit() for name in self.classes)
        grades = torch.tensor([int(name) if numbered else place for place, name in enumerate(self.classes)])
        return (corn_probabilities(outputs) @ grades.double()).tolist()

    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> GradeLoss:
        if recipe.label_smoothing:
            raise ValueError(f"a task of ordinal needs recipe.label_smoothing=0, got {recipe.label_smoothing}")
        return GradeLoss(list_class_weights(recipe, train_set))

    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return corn_losses(outputs.double(), labels).sum()

    def start_tally(self) -> "GradeTally":
        return GradeTally(self)


class GradeTally(KeptOutputs):
    """Answers to all items."""

    def compute(self, shared: Mapping[str, Any]) -> GradeMetrics:
        task, grades = self.task, len(self.task.classes)
        predicted = median_grades(corn_probabilities(self.outputs))
        pairs = torch.bincount(self.labels * grades + predicted, minlength=grades * grades)
        counts = pairs.view(grades, grades)
        support, right = counts.sum(1).tolist(), counts.diagonal().tolist()
        shares = [100 * own / all_ if all_ else None for own, all_ in zip(right, support, strict=True)]
        return GradeMetrics(
            **shared,
            accuracy=100 * sum(right) / len(predicted),
            mae=int((predicted - self.labels).abs().sum()) / len(predicted),
            kappa=quadratic_kappa(counts),
            per_class=dict(zip(task.classes, shares, strict=True)),
            counts=counts,
        )
