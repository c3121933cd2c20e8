"""Features in which images of a class lie near one another: learned from pairs in a batch, judged by search.

Losses are those of pytorch-metric-learning (https://github.com/KevinMusgrave/pytorch-metric-learning), on cosines:

    supcon            supervised contrastive, τ = 0.1 (Khosla et al., NeurIPS 2020, https://arxiv.org/abs/2004.11362)
    multi_similarity  Wang et al., CVPR 2019, https://arxiv.org/abs/1904.06627, with the numbers of that library

Pairs are those of the part of a batch that one process computes at a time: more processes, or recipe.accumulate, make
them fewer. Every split is searched by itself, each image among all others of the split, so that val and test may have
classes that train does not have. The loss of a split that is told is 1 - mAP@R.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from vision_peft.config.schema import Recipe
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.targets import Targets
from vision_peft.retrieval.score import score_retrieval
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.task import KeptOutputs, Loss, Task

_LOSSES: Mapping[str, str] = {"supcon": "SupConLoss", "multi_similarity": "MultiSimilarityLoss"}
_NOT_THERE = "a task of embedding needs pytorch-metric-learning: pip install 'vision_peft[metric]'"


@dataclass(frozen=True, kw_only=True)
class EmbeddingMetrics(Metrics):
    """Figures of a search of each image among all others, in percent; None where no class has two images."""

    recall_at_1: float | None
    recall_at_5: float | None
    map_at_r: float | None
    r_precision: float | None
    knn: float | None  # accuracy of 20 votes
    unanswerable: int  # images that are alone in their class

    @property
    def figures(self) -> Mapping[str, float | None]:
        return {name: getattr(self, name) for name in Embedding.words}

    def describe(self) -> str:
        known = [
            f"{Embedding.words[name].partition(',')[0]} {v:.2f} %" for name, v in self.figures.items() if v is not None
        ]
        alone = f", {self.unanswerable} alone in their class" if self.unanswerable else ""
        return f"{'  '.join(known)}  ({self.describe_items()}{alone})"


class PairLoss(Loss):
    """A loss of the pairs in a batch, of features B D and labels B."""

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            from pytorch_metric_learning import losses
        except ImportError:
            raise ImportError(_NOT_THERE) from None
        self.pairs: Any = getattr(losses, _LOSSES[name])()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.pairs(outputs, targets)


class Embedding(Task):
    """Features whose cosines tell the class, of classes that training has not seen too.

    Args:
        width: numbers that the projection behind the backbone answers with; 0: the features of the backbone themselves.
    """

    kind = "embedding"
    hub_task = "image-feature-extraction"
    metric = "recall_at_1"
    watched = ("recall_at_1", "map_at_r")
    words: ClassVar = {
        "recall_at_1": "R@1, %",
        "recall_at_5": "R@5, %",
        "map_at_r": "mAP@R, %",
        "r_precision": "R-precision, %",
        "knn": "20-NN, %",
    }
    losses = tuple(_LOSSES)
    least_classes = 2
    images_per_class = 4
    open_set = True
    outputs_are = "features that are compared by cosines, and name no class"
    has_width = True

    def __init__(self, classes: Sequence[str], targets: Targets | None = None, width: int = 0, **fields: Any) -> None:
        super().__init__(classes, targets, **fields)
        if type(width) is not int or width < 0:
            raise ValueError(f"width must be a whole number from 0, got {str(width)[:40]}")
        self.width = width

    @classmethod
    def check_splits(cls, splits: Mapping[str, ImageDataset]) -> None:
        """Raise ValueError as of other tasks, and where a split has no pairs that could be learned from or found."""
        super().check_splits(splits)
        for name, dataset in splits.items():
            counts = np.unique(np.asarray(dataset.labels), return_counts=True)[1]
            if len(counts) < 2 or counts.max() < 2:
                raise ValueError(
                    f"pairs need images of two classes, and two images of one class: split {name} has "
                    f"{len(counts)} classes of at most {max(counts.tolist(), default=0)} images"
                )

    @classmethod
    def learn(cls, train_set: ImageDataset, recipe: Recipe) -> Self:
        width = recipe.embedding_width
        if width is None and recipe.head != "linear":
            raise ValueError(
                f"recipe.head={recipe.head} is a projection here: give recipe.embedding_width=128, for example"
            )
        return cls(train_set.classes, train_set.targets, width or 0)

    def record(self) -> dict[str, Any]:
        return {"width": self.width}

    @property
    def outputs(self) -> int:
        return self.width

    def check_outputs(self, outputs: Tensor) -> None:
        if self.width:
            super().check_outputs(outputs)

    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> PairLoss:
        for name in ("label_smoothing", "class_weights"):
            if value := getattr(recipe, name):
                raise ValueError(f"recipe.{name} is for classes, got {value} for a task of embedding: leave it out")
        return PairLoss(self.losses[0] if recipe.loss == "auto" else recipe.loss)

    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros(())  # pairs are no sum over items: the tally tells 1 - mAP@R

    def start_tally(self) -> "EmbeddingTally":
        return EmbeddingTally(self)


class EmbeddingTally(KeptOutputs):
    """Features of all items."""

    def compute(self, shared: Mapping[str, Any]) -> EmbeddingMetrics:
        labels = self.labels
        if len(labels.unique()) == len(labels):
            nothing: dict[str, Any] = dict.fromkeys(Embedding.words)
            return EmbeddingMetrics(**{**shared, "loss": 1.0}, **nothing, unanswerable=len(labels))
        found = score_retrieval(self.outputs, labels, at=(1, 5))
        return EmbeddingMetrics(
            **{**shared, "loss": 1 - found.map_at_r / 100},
            recall_at_1=found.recall[1],
            recall_at_5=found.recall[5],
            map_at_r=found.map_at_r,
            r_precision=found.r_precision,
            knn=found.knn,
            unanswerable=found.unanswerable,
        )
