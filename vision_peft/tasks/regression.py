"""Numbers, one or several an image: learned standardised, answered in the units of the data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vision_peft.config.schema import Recipe
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.targets import Targets
from vision_peft.tasks.answers import Guess
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.pictures import draw_scatter
from vision_peft.tasks.quantities import explained_shares, mean_absolute_errors, root_mean_square_errors
from vision_peft.tasks.task import KeptOutputs, Loss, Task

PICTURE = "predicted.png"
_LOSSES: Mapping[str, Callable[..., Tensor]] = {"huber": F.huber_loss, "l1": F.l1_loss, "l2": F.mse_loss}


@dataclass(frozen=True, kw_only=True)
class NumberMetrics(Metrics):
    """Errors in the unit of the data; of several targets the means over them, and `error` too, which has no unit."""

    mae: float
    rmse: float
    r2: float
    error: float  # mean absolute error in standard deviations of train, over all targets
    unit: str
    per_target: dict[str, dict[str, float]]
    answers: Tensor = field(repr=False)  # N D
    truth: Tensor = field(repr=False)  # N D

    @property
    def figures(self) -> Mapping[str, float | None]:
        names = ("mae", "rmse", "r2", "error") if len(self.per_target) > 1 else ("mae", "rmse", "r2")
        return {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        each = [f"{name} {own['mae']:.4g}{unit}" for name, own in [*self.per_target.items()][:5]]
        several = f"  (MAE of {', '.join(each)})" if len(self.per_target) > 1 else ""
        return (
            f"MAE {self.mae:.4g}{unit}  RMSE {self.rmse:.4g}{unit}  R2 {self.r2:.4f}{several}  loss {self.loss:.4f}  "
            f"({self.describe_items()})"
        )

    def to_row(self) -> dict[str, Any]:
        several = self.per_target if len(self.per_target) > 1 else {}
        named = {f"{figure} of {name}": own for name, each in several.items() for figure, own in each.items()}
        return {**super().to_row(), "figures": {**self.figures, **named}}

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        names = [*self.per_target]
        return {PICTURE: lambda path: draw_scatter(path, names, self.unit, self.answers, self.truth)}


class NumberLoss(Loss):
    """The mean loss of standardised numbers B D; `table` gives labels their numbers, standardised."""

    table: Tensor

    def __init__(self, table: Tensor, loss: str) -> None:
        super().__init__()
        self.loss = _LOSSES[loss]
        self.register_buffer("table", table.float(), persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, self.table[targets].to(outputs))


class Regression(Task):
    """Numbers, as many as there are `classes`, which are their names.

    Args:
        mean, std: of each number over the images of train, by which answers are scaled.
        unit: of the numbers.
        loss: that evaluation tells, of standardised numbers.
    """

    kind = "regression"
    nouns = ("number", "numbers")
    hub_task = None
    metric: str = "mae"  # pyright: ignore[reportIncompatibleVariableOverride]
    lower_is_better = True
    watched = ("mae", "r2")
    losses = ("huber", "l1", "l2")
    ranks_names = False
    names_classes = False
    outputs_are = "numbers in standard deviations of the training data: answer = output * std + mean"
    in_numpy = """    numbers = logits * np.array(task["std"]) + np.array(task["mean"])
    answer = ", ".join(f"{name} {number:.6g} {task['unit']}".strip() for name, number in zip(names, numbers))
"""

    def __init__(
        self,
        classes: Sequence[str],
        targets: Targets | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        unit: str = "",
        loss: str = "huber",
        **fields: Any,
    ) -> None:
        super().__init__(classes, targets, **fields)
        for name, values, low in (("mean", mean, None), ("std", std, 0.0)):
            if not isinstance(values, list | tuple) or len(values) != len(self.classes):
                raise ValueError(f"{name} must be {len(self.classes)} numbers, one for each of {self.classes}")
            if not all(type(each) in (int, float) and np.isfinite(each) for each in values):
                raise ValueError(f"{name} must be finite numbers, got {list(values)}")
            if low is not None and min(values) <= low:
                raise ValueError(f"{name} must be numbers above 0, got {list(values)}")
        if not isinstance(unit, str) or len(unit) > 40:
            raise ValueError(f"unit must be a text of at most 40 letters, got {str(unit)[:60]!r}")
        if loss not in self.losses:
            raise ValueError(f"loss must be one of {', '.join(self.losses)}, got {str(loss)[:40]!r}")
        if len(self.classes) > 1:  # whose units may differ
            self.metric = "error"
        self.mean, self.std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
        self.unit, self.loss = unit, loss

    @property
    def words(self) -> Mapping[str, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        unit = f", {self.unit}" if self.unit else ""
        return {"mae": f"MAE{unit}", "rmse": f"RMSE{unit}", "r2": "R2", "error": "MAE, standard deviations"}

    @classmethod
    def learn(cls, train_set: ImageDataset, recipe: Recipe) -> Self:
        targets = train_set.targets
        assert targets is not None
        assert targets.values is not None
        numbers = targets.values[np.asarray(train_set.labels)].astype(np.float64)
        std = numbers.std(0)
        constant = [name for name, each in zip(train_set.classes, std.tolist(), strict=True) if not each > 0]
        if constant:
            raise ValueError(f"there is nothing to learn: {constant[0]} is the same for all images of train")
        loss = cls.losses[0] if recipe.loss == "auto" else recipe.loss
        return cls(train_set.classes, targets, numbers.mean(0).tolist(), std.tolist(), targets.unit, loss)

    def record(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "unit": self.unit, "loss": self.loss}

    def truth(self, labels: Tensor) -> Tensor:
        """Return the numbers that labels N stand for, N D in float64."""
        assert self.targets is not None
        assert self.targets.values is not None
        return torch.from_numpy(self.targets.values[labels.numpy()]).double()

    def to_units(self) -> tuple[Tensor, Tensor]:
        return self.std, self.mean

    def answers(self, outputs: Tensor) -> Tensor:
        """Return outputs N D as numbers in the unit of the data, in float64."""
        return outputs.double() * self.std + self.mean

    def name_answers(self, outputs: Tensor, top: int = 5) -> list[list[Guess]]:
        return [list(zip(self.classes, row, strict=True)) for row in self.answers(outputs).tolist()]

    def say(self, guesses: Sequence[Guess]) -> str:
        return ", ".join(self.format_guess("", value).strip() for _, value in guesses)

    def format_guess(self, name: str, value: float) -> str:
        return f"{name} {value:.4g}{' ' * bool(self.unit)}{self.unit}"

    def to_json(self, guesses: Sequence[Guess]) -> dict[str, Any]:
        return {"values": dict(guesses), "unit": self.unit}

    def to_cells(self, guesses: Sequence[Guess]) -> dict[str, Any]:
        unit = f" ({self.unit})" if self.unit else ""
        return {f"{name}{unit}": value for name, value in guesses}

    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> NumberLoss:
        if recipe.label_smoothing or recipe.class_weights is not None:
            wrong = "label_smoothing" if recipe.label_smoothing else "class_weights"
            raise ValueError(f"recipe.{wrong} is for classes: for a task of regression leave it out")
        assert self.targets is not None
        assert self.targets.values is not None
        return NumberLoss(self._standardise(torch.from_numpy(self.targets.values)), self.loss)

    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        losses = _LOSSES[self.loss](outputs.double(), self._standardise(self.truth(labels)), reduction="none")
        return losses.mean(1).sum()

    def start_tally(self) -> "NumberTally":
        return NumberTally(self)

    def _standardise(self, numbers: Tensor) -> Tensor:
        return (numbers.double() - self.mean) / self.std


class NumberTally(KeptOutputs):
    """Answers to all items."""

    def compute(self, shared: Mapping[str, Any]) -> NumberMetrics:
        task = self.task
        assert isinstance(task, Regression)
        answers, truth = task.answers(self.outputs), task.truth(self.labels)
        found = {
            "mae": mean_absolute_errors(answers, truth),
            "rmse": root_mean_square_errors(answers, truth),
            "r2": explained_shares(answers, truth),
        }
        figures: dict[str, Any] = {name: sum(values) / len(values) for name, values in found.items()}
        in_stds = [error / std for error, std in zip(found["mae"], task.std.tolist(), strict=True)]
        return NumberMetrics(
            **dict[str, Any](shared),
            **figures,
            error=sum(in_stds) / len(in_stds),
            unit=task.unit,
            per_target={
                name: {figure: values[place] for figure, values in found.items()}
                for place, name in enumerate(task.classes)
            },
            answers=answers,
            truth=truth,
        )
