"""A depth for every pixel: the logarithm is learned, in a loss that forgives part of a wrong scale; RMSE."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vision_peft.config.schema import Recipe
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.mask_dataset import MaskFiles
from vision_peft.data.targets import Targets
from vision_peft.distributed.processes import all_gather
from vision_peft.tasks.depth_sums import DepthSums, scale_invariant_loss
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.overlays import HEADINGS, Examples, colour_depths, draw_rows
from vision_peft.tasks.task import Loss, Tally, Task
from vision_peft.tasks.upsample import upsample

EXAMPLES = "examples.png"
_LOOKED_AT = 200  # training images whose depths say where answers start
_FARTHEST = 1e6  # metres


@dataclass(frozen=True, kw_only=True)
class DepthMetrics(Metrics):
    """Figures over the pixels with a measurement, of all images together."""

    sums: DepthSums
    examples: Examples

    @property
    def figures(self) -> Mapping[str, float | None]:
        found = self.sums.figures()
        return {"rmse": found["rmse"], "abs_rel": found["abs_rel"], "delta1": 100 * found["delta1"]}

    def describe(self) -> str:
        rmse, abs_rel, delta1 = self.figures.values()
        words = f"RMSE {rmse:.4f} m  AbsRel {abs_rel:.4f}  delta1 {delta1:.2f} %"
        return f"{words}  loss {self.loss:.4f}  ({self.describe_items()})"

    def pictures(self, dataset: ImageDataset) -> Mapping[str, Callable[[Path], Any]]:
        def draw(path: Path) -> None:
            rows = []
            for item, (true, found) in sorted(self.examples.kept.items()):
                measured = true[true > 0]
                near, far = (float(measured.min()), float(measured.max())) if measured.size else (1.0, 2.0)
                maps = [Image.fromarray(colour_depths(depths, near, far)) for depths in (true, found)]
                rows.append([dataset.picture(item).convert("RGB").resize(maps[0].size), *maps])
            draw_rows(path, rows, HEADINGS)

        return {EXAMPLES: draw}


class ScaleInvariant(Loss):
    """The scale-invariant loss of log depths, see `scale_invariant_loss`; outputs (B 1 h w) are scaled to the maps."""

    centre: Tensor

    def __init__(self, centre: float) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float64), persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logs = upsample(outputs, targets.shape[-2:])[:, 0] + self.centre.log().to(outputs)
        return scale_invariant_loss(logs, targets)


class Depth(Task):
    """A depth for every pixel, in metres; a map has 0 where there is no measurement.

    Args:
        centre: metres that an output of 0 stands for, the geometric mean of train.
    """

    kind = "depth"
    nouns = ("number a pixel", "numbers a pixel")
    hub_task = "depth-estimation"
    metric = "rmse"
    lower_is_better = True
    watched = ("rmse", "delta1")
    words: ClassVar = {"rmse": "RMSE, m", "abs_rel": "AbsRel", "delta1": "delta1, %"}
    losses = ("scale_invariant",)
    answers_maps = True

    def __init__(
        self, classes: Sequence[str], targets: Targets | None = None, centre: float = 1.0, **fields: Any
    ) -> None:
        super().__init__(classes, targets, **fields)
        if isinstance(centre, bool) or not isinstance(centre, int | float) or not 0 < centre < _FARTHEST:
            raise ValueError(f"centre of a task of depth is a number of metres above 0; got {centre!r}")
        self.centre = float(centre)

    @classmethod
    def learn(cls, train_set: ImageDataset, recipe: Recipe) -> Self:
        assert isinstance(train_set, MaskFiles)
        if recipe.class_weights is not None:
            raise ValueError("recipe.class_weights is for classes, which depth maps do not have: leave it out")
        total, pixels = 0.0, 0
        for item in np.linspace(0, len(train_set) - 1, min(_LOOKED_AT, len(train_set))).round().astype(int).tolist():
            depths = train_set.mask(item)
            logs = np.log(depths[depths > 0].astype(np.float64))
            total, pixels = total + float(logs.sum()), pixels + logs.size
        if not pixels:
            raise ValueError("no pixel of the training maps has a depth: data.missing is the value of those without")
        return cls(train_set.classes, train_set.targets, centre=math.exp(total / pixels))

    def record(self) -> dict[str, Any]:
        return {"centre": self.centre}

    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> ScaleInvariant:
        if recipe.label_smoothing:
            raise ValueError("recipe.label_smoothing is for classes: for a task of depth leave it out")
        return ScaleInvariant(self.centre)

    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return ScaleInvariant(self.centre)(outputs, labels) * len(labels)

    def find_depths(self, outputs: Tensor, size: Sequence[int]) -> Tensor:
        """Return the depths (B H W) in metres that outputs (B 1 h w) stand for."""
        return self.centre * upsample(outputs, size)[:, 0].clamp(max=math.log(_FARTHEST)).exp()

    def start_tally(self) -> "DepthTally":
        return DepthTally(self)


class DepthTally(Tally):
    """Sums over pixels, whole numbers."""

    task: Depth

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.sums, self.examples = DepthSums(), Examples()

    def count(self, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        depths = self.task.find_depths(outputs, labels.shape[-2:])
        for found, true, item in zip(depths, labels, indices.tolist(), strict=True):
            self.sums.add(found, true)
            self.examples.add(item, true.numpy(), found.numpy())

    def gather_into(self, whole: "DepthTally") -> None:
        whole.examples = self.examples  # a picture is of what one process saw
        whole.sums.merge(all_gather(self.sums.sums))

    def compute(self, shared: Mapping[str, Any]) -> DepthMetrics:
        return DepthMetrics(**shared, sums=self.sums, examples=self.examples)
