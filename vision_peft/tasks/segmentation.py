"""A class for every pixel: cross entropy over the pixels of a mask, mIoU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vision_peft.config.schema import Recipe
from vision_peft.data.class_weights import weigh_counts
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.mask_dataset import MaskFiles
from vision_peft.data.targets import Targets
from vision_peft.distributed.processes import all_gather_tensors
from vision_peft.printable import name_some
from vision_peft.tasks.classes import CONFUSION, LARGEST_CONFUSION, write_confusion
from vision_peft.tasks.mask_counts import IGNORE, MaskCounts
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.overlays import HEADINGS, Colour, Examples, colour_classes, draw_rows, lay_over, make_palette
from vision_peft.tasks.task import Loss, Tally, Task
from vision_peft.tasks.upsample import find_classes, upsample, upsample_rows

EXAMPLES = "examples.png"


@dataclass(frozen=True, kw_only=True)
class MaskMetrics(Metrics):
    """Figures in percent, over the pixels of all images together; those without a class are left out."""

    counts: MaskCounts
    task: "Segmentation"
    examples: Examples

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.task.classes

    @property
    def present(self) -> Tensor:
        """Which classes the true masks have."""
        return self.counts.confusion.sum(1) > 0

    @property
    def figures(self) -> Mapping[str, float | None]:
        """The means over the classes that the true masks have."""
        present = self.present
        boundary = self.counts.boundary_f()[present]
        return {
            "miou": 100 * self.counts.iou()[present].mean().item(),
            "pixel_accuracy": 100 * self.counts.accuracy(),
            "class_accuracy": 100 * self.counts.class_accuracy()[present].mean().item(),
            "boundary_f": None if boundary.isnan().all() else 100 * boundary.nanmean().item(),
        }

    @property
    def per_class(self) -> dict[str, float | None]:
        """The IoU of every class; None: no pixel of the true masks is of it."""
        shares = zip(self.classes, (100 * self.counts.iou()).tolist(), self.present.tolist(), strict=True)
        return {name: share if there else None for name, share, there in shares}

    @property
    def confusion(self) -> list[list[int]] | None:
        """Pixels [truth][prediction]; None above `LARGEST_CONFUSION` classes."""
        return self.counts.confusion.tolist() if len(self.classes) <= LARGEST_CONFUSION else None

    def to_row(self) -> dict[str, Any]:
        return {**super().to_row(), "per_class": self.per_class, "confusion": self.confusion}

    def describe(self) -> str:
        figures = {name: value for name, value in self.figures.items() if value is not None}
        words = "  ".join(
            f"{Segmentation.words[name].partition(',')[0]} {value:.2f} %" for name, value in figures.items()
        )
        absent = [name for name, share in self.per_class.items() if share is None]
        without = f"; no pixel of it is {name_some(absent)}, which the means leave out" if absent else ""
        return f"{words}  loss {self.loss:.4f}  ({self.describe_items()}{without})"

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        return {CONFUSION: lambda path: write_confusion(path, self)}

    def list_shown(self, palette: Sequence[Colour]) -> list[tuple[str, Colour]]:
        """List names and colours of the classes on the examples, those with the most pixels first."""
        masks = [mask for pair in self.examples.kept.values() for mask in pair]
        pixels = sum((np.bincount(mask.ravel(), minlength=256) for mask in masks), np.zeros(256, int))
        found = sorted(range(len(palette)), key=lambda number: (-pixels[number], number))
        return [(self.classes[number], palette[number]) for number in found if pixels[number]]

    def pictures(self, dataset: ImageDataset) -> Mapping[str, Callable[[Path], Any]]:
        palette = self.task.colours

        def draw(path: Path) -> None:
            rows = []
            for item, masks in sorted(self.examples.kept.items()):
                pictures = [lay_over(dataset.picture(item), colour_classes(mask, palette)) for mask in masks]
                rows.append([dataset.picture(item).convert("RGB").resize(pictures[0].size), *pictures])
            draw_rows(path, rows, HEADINGS, self.list_shown(palette))

        return {EXAMPLES: draw}


class PixelCrossEntropy(Loss):
    """The mean over the images of the mean cross entropy of their pixels with a class; of none it is 0.

    Logits B C h w are scaled to the masks B H W. With class weights w the sum of `w[class] * entropy` over an image is
    divided by its number of pixels with a class: so parts of a batch and processes add up to the whole.
    """

    weights: Tensor | None

    def __init__(self, smoothing: float = 0.0, weights: list[float] | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        exact = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", exact, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = upsample(outputs, targets.shape[-2:])
        weights = None if self.weights is None else self.weights.to(logits)
        smoothing: Any = {"weight": weights, "label_smoothing": self.smoothing}
        entropy = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none", **smoothing)
        pixels = (targets != IGNORE).sum((1, 2)).clamp(min=1)
        return (entropy.sum((1, 2)) / pixels).mean()


class Segmentation(Task):
    """A class for every pixel; masks are numbers of classes H W, 255 where a pixel does not count.

    Args:
        palette: colours (red, green, blue) of the first classes, as the masks of train have them.
    """

    kind = "segmentation"
    hub_task = "image-segmentation"
    metric = "miou"
    watched = ("miou", "pixel_accuracy")
    words: ClassVar = {
        "miou": "mIoU, %",
        "pixel_accuracy": "pixel accuracy, %",
        "class_accuracy": "mean per class, %",
        "boundary_f": "boundary F, %",
    }
    losses = ("cross_entropy",)
    answers_maps = True
    least_classes = 2

    def __init__(
        self, classes: Sequence[str], targets: Targets | None = None, palette: Any = None, **fields: Any
    ) -> None:
        super().__init__(classes, targets, **fields)
        given = [tuple(colour) if isinstance(colour, list | tuple) else () for colour in palette or ()]
        if any(len(each) != 3 or not all(type(part) is int and 0 <= part < 256 for part in each) for each in given):
            raise ValueError("palette of a task of segmentation lists colours, three numbers from 0 to 255 each")
        self.palette: list[Any] = given[: len(self.classes)]

    @classmethod
    def learn(cls, train_set: ImageDataset, recipe: Recipe) -> Self:
        palette = train_set.palette() if isinstance(train_set, MaskFiles) else None
        return cls(train_set.classes, train_set.targets, palette=palette)

    def record(self) -> dict[str, Any]:
        return {"palette": [[*colour] for colour in self.palette]} if self.palette else {}

    @property
    def colours(self) -> list[Colour]:
        """A colour for every class."""
        return make_palette(len(self.classes), self.palette)

    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> PixelCrossEntropy:
        return PixelCrossEntropy(recipe.label_smoothing, list_pixel_weights(recipe, train_set))

    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([_mean_entropy(logits, mask) for logits, mask in zip(outputs, labels, strict=True)]).sum()

    def start_tally(self) -> "MaskTally":
        return MaskTally(self)


class MaskTally(Tally):
    """Counts of pixels, whole numbers."""

    task: Segmentation

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.counts, self.examples = MaskCounts(len(task.classes)), Examples()

    def count(self, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        for logits, mask, item in zip(outputs, labels, indices.tolist(), strict=True):
            found = find_classes(logits, mask.shape)
            self.counts.add(found, mask)
            self.examples.add(item, mask.byte().numpy(), found.byte().numpy())

    def gather_into(self, whole: "MaskTally") -> None:
        whole.examples = self.examples  # a picture is of what one process saw
        for name in ("confusion", "boundary"):
            parts = all_gather_tensors(getattr(self.counts, name)[None])
            setattr(whole.counts, name, torch.cat(list(parts)).sum(0))

    def compute(self, shared: Mapping[str, Any]) -> MaskMetrics:
        if not self.counts.confusion.sum():
            raise ValueError("no pixel of the masks of this split has a class")
        return MaskMetrics(**shared, counts=self.counts, task=self.task, examples=self.examples)


def list_pixel_weights(recipe: Recipe, train_set: ImageDataset) -> list[float] | None:
    """List the weight of each class in the loss; "balanced" and "effective" go by how many pixels of train are of it.

    See `weigh_counts`: the weights of all pixels average 1.
    """
    given, classes = recipe.class_weights, len(train_set.classes)
    if isinstance(given, str):
        masks: Any = train_set  # or the features that training keeps in their place
        return weigh_counts(masks.count_labels(), given, recipe.effective_beta)
    if given is not None and len(given) != classes:
        raise ValueError(f"recipe.class_weights must be {classes} numbers, one for each class; got {len(given)}")
    return None if given is None else list(given)


def _mean_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean cross entropy of the pixels (H W) that have a class, by logits C h w."""
    total = torch.zeros(())
    for rows, part in upsample_rows(logits, mask.shape):
        total = total + F.cross_entropy(part[None], mask[None, rows], ignore_index=IGNORE, reduction="sum")
    return total / (mask != IGNORE).sum().clamp(min=1)
