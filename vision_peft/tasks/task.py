"""A kind of task: how many numbers a head answers with, what an answer costs, how good the answers of a split are.

Training, evaluation, rows and adapters ask the task of a dataset and know no kind.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vision_peft.config.schema import Recipe
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.targets import Targets, same_targets
from vision_peft.distributed.processes import all_gather, all_gather_tensors
from vision_peft.tasks.answers import Answers
from vision_peft.tasks.metrics import Metrics


class Loss(nn.Module, ABC):
    """What training minimises. Its buffers are what it knows of the training data, so that it goes to a device."""

    remark = ""  # what the log of a run says of it

    @abstractmethod
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean over a batch, so that parts of it and processes add up to the whole.

        Args:
            outputs: of the head in fp32, B first.
            targets: labels as the loader gives them (B, or masks B H W), or the soft targets of mixup B C.
        """


class NotFinite(FloatingPointError):
    """A model answers with NaN or infinity, which the figures of a task cannot take in."""


class Tally(ABC):
    """What is counted over the items of a split, in this process until `gather`.

    Args:
        task: whose answers are judged.
    """

    def __init__(self, task: "Task") -> None:
        self.task = task
        self.loss, self.items = 0.0, 0  # sum and number of the items that have an answer
        self.bad: list[int] = []  # labels of the undecodable items
        self.non_finite: list[int] = []  # labels of the items that the model answered with NaN or infinity

    def add(self, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Take in answers B ... (fp32, on the CPU), labels B ... and indices in the dataset B.

        Raises:
            ValueError: answers of another size than the task has.
        """
        self.task.check_outputs(outputs)
        finite = outputs.isfinite().flatten(1).all(1)
        if not finite.all():
            self.non_finite += (labels[~finite] if labels.ndim == 1 else torch.zeros(int((~finite).sum()))).tolist()
            outputs, labels, indices = outputs[finite], labels[finite], indices[finite]
        if len(labels):
            self.loss += self.task.sum_loss(outputs, labels).item()
            self.items += len(labels)
            self.count(outputs, labels, indices)

    def gather(self) -> Self:
        """Return those of all processes together; every process gets the same."""
        whole = type(self)(self.task)
        for loss, items, bad, non_finite in all_gather([self.loss, self.items, self.bad, self.non_finite]):
            whole.loss, whole.items = whole.loss + loss, whole.items + items
            whole.bad, whole.non_finite = whole.bad + bad, whole.non_finite + non_finite
        self.gather_into(whole)
        return whole

    def finish(self, views: float | None = None) -> Metrics:
        """Compute the figures; `views` is how many of a video were averaged.

        Raises:
            ValueError: there is nothing that they could be of, or the task has none for items that cannot be decoded.
            NotFinite: the model answers with NaN or infinity, and the task has no figures for that.
        """
        what = "images" if views is None else "videos"
        if not self.items and not self.non_finite:
            number = len(self.bad)
            reason = (
                f"none of the {number} {what} can be decoded" if number else f"the split to evaluate holds no {what}"
            )
            raise ValueError(reason)
        missed = len(self.bad) + len(self.non_finite)
        if missed and not self.task.counts_missed:
            number, of = self.items + missed, f"which a task of {self.task.kind} cannot count as wrong"
            if self.bad:
                files = f"{len(self.bad)} of {number} {what} cannot be decoded, {of}"
                raise ValueError(f"{files}: remove the files (bad_eval=error names the first)")
            raise NotFinite(
                f"{len(self.non_finite)} of {number} {what} are answered with NaN or infinity, {of}: train with a "
                "lower recipe.lr or recipe.clip_grad=1, or give precision=fp32"
            )
        shared = {
            "loss": self.loss / self.items if self.items else math.nan,
            "images": self.items + missed,
            "bad": len(self.bad),
            "non_finite": len(self.non_finite),
            "views": views,
        }
        return self.compute(shared)

    @abstractmethod
    def count(self, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Take in finite answers; see `add`."""

    @abstractmethod
    def gather_into(self, whole: Any) -> None:
        """Put what `count` counted in all processes into `whole`, a new tally of the same type."""

    @abstractmethod
    def compute(self, shared: Mapping[str, Any]) -> Metrics:
        """Compute the metrics, of which `shared` holds the fields that all kinds have."""


class KeptOutputs(Tally):
    """A tally that keeps the answers to all items, for figures that are not sums over them.

    After `gather` they are in the order of the dataset, so that no figure depends on the number of processes.
    """

    def __init__(self, task: "Task") -> None:
        super().__init__(task)
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def count(self, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        self._kept.append((outputs, labels, indices))

    def gather_into(self, whole: "KeptOutputs") -> None:
        width = max(all_gather(max((outputs.shape[1] for outputs, _, _ in self._kept), default=self.task.outputs)))
        empty = torch.empty(0, width), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        own = [torch.cat(column) for column in zip(*self._kept, strict=True)] if self._kept else empty
        outputs, labels, indices = (torch.cat(list(all_gather_tensors(tensor))) for tensor in own)
        order = indices.argsort(stable=True)
        whole._kept = [(outputs[order], labels[order], indices[order])] if len(order) else []

    @property
    def outputs(self) -> Tensor:
        """Answers N C."""
        return torch.cat([outputs for outputs, _, _ in self._kept])

    @property
    def labels(self) -> Tensor:
        """Labels N."""
        return torch.cat([labels for _, labels, _ in self._kept])


class Task(Answers, ABC):
    """What is to be answered, for one dataset.

    Args:
        classes: names, in the order of their numbers; of regression what is measured.
        targets: what labels stand for, see there.
        fields: of subclasses: what they learned from the training data, as `record` gives it.
    """

    kind: ClassVar[str]  # data.task_kind, the name of the file
    nouns: ClassVar[tuple[str, str]] = ("class", "classes")  # what `classes` name, one and several
    hub_task: ClassVar[str | None] = "image-classification"  # what the Hugging Face hub calls it; None: nothing
    metric: ClassVar[str]  # the figure that chooses epochs and settings
    lower_is_better: ClassVar[bool] = False  # of `metric`
    watched: ClassVar[tuple[str, ...]]  # figures of test that trackers get
    words: ClassVar[Mapping[str, str]]  # figure -> how it is written, with its unit: {"map": "mAP, %"}
    losses: ClassVar[tuple[str, ...]]  # recipe.loss; the first is the one by default
    mixes: ClassVar[bool] = False  # whether mixup and cutmix give targets that the loss takes
    answers_maps: ClassVar[bool] = False  # whether every pixel has an answer, so that the head has to be one for maps
    adjusts_logits: ClassVar[bool] = False  # whether recipe.logit_adjustment is for it
    counts_missed: ClassVar[bool] = False  # whether an item without an answer is a wrong answer
    least_classes: ClassVar[int] = 1
    images_per_class: ClassVar[int | None] = None  # recipe.images_per_class by default; None: batches are shuffled
    open_set: ClassVar[bool] = False  # whether it is evaluated on other classes than it was trained on
    has_width: ClassVar[bool] = False  # whether recipe.embedding_width is of this task
    fits_on_val: ClassVar[str] = ""  # what `fit_on_val` is for, as a sentence that says it was not done; "": nothing
    temperature: float | None = None  # that logits are divided by before they become probabilities

    def __init__(self, classes: Sequence[str], targets: Targets | None = None, **fields: Any) -> None:
        if fields:
            raise ValueError(f"a task of {self.kind} has no field {', '.join(fields)}")
        self.classes, self.targets = list(classes), targets

    @classmethod
    def learn(cls, train_set: ImageDataset, recipe: Recipe) -> Self:
        """Create the task of a dataset, from what its training images are labelled with.

        Raises:
            ValueError: labels that nothing can be learned from, or a recipe that does not fit them.
        """
        return cls(train_set.classes, train_set.targets)

    @classmethod
    def check_splits(cls, splits: Mapping[str, ImageDataset]) -> None:
        """Raise ValueError where the splits of a dataset do not ask for the same."""
        (first_name, first), *others = splits.items()
        for name, dataset in others:
            if dataset.classes != first.classes:
                raise ValueError(
                    f"split {name} has other classes than {first_name}: "
                    f"{_name_classes(dataset.classes)} against {_name_classes(first.classes)}"
                )
            if not same_targets(dataset.targets, first.targets):
                raise ValueError(f"the labels of split {name} stand for something else than those of {first_name}")

    def record(self) -> dict[str, Any]:
        """Return what an adapter has to know of it besides the classes, as JSON holds it; `fields` of another one."""
        return {}

    @property
    def outputs(self) -> int:
        """Numbers that the head answers with; 0: there is none, and the features are the answer."""
        return len(self.classes)

    def check_outputs(self, outputs: Tensor) -> None:
        """Raise ValueError where a model answers with another number of them than the task has."""
        if outputs.shape[1] != self.outputs:
            what = (
                f"{self.outputs} classes"
                if self.outputs == len(self.classes)
                else (f"{self.outputs} numbers to predict")
            )
            raise ValueError(f"the model answers with {outputs.shape[1]} numbers, the data has {what}")

    def name_figure(self, figure: str) -> str:
        """Write the name of a figure without its unit."""
        return self.words.get(figure, figure).partition(",")[0]

    def format_figure(self, figure: str, value: float) -> str:
        """Write a figure with its name and unit: "mAP 84.70 %"."""
        unit = self.words.get(figure, figure).partition(",")[2].strip()
        digits = ".2f" if unit == "%" else ".4g"
        return f"{self.name_figure(figure)} {value:{digits}}{' ' * bool(unit)}{unit}"

    @abstractmethod
    def create_loss(self, recipe: Recipe, train_set: ImageDataset) -> Loss:
        """Create what training minimises.

        Raises:
            ValueError: a recipe that does not fit the task.
        """

    def list_remarks(self, recipe: Recipe, train_set: ImageDataset) -> list[str]:
        """List what the log of a run says of its loss."""
        return [remark] if (remark := self.create_loss(recipe, train_set).remark) else []

    @abstractmethod
    def sum_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum the plain loss of answers over their items, as evaluation tells it."""

    @abstractmethod
    def start_tally(self) -> Tally:
        """Begin to count over the items of a split."""

    def fit_on_val(self, outputs: Tensor, labels: Tensor) -> Self:
        """Return the task with what is chosen by answers N ... that were not trained on, in the order of the data."""
        return self

    def describe_fit(self) -> str:
        """Say what `fit_on_val` found, or why nothing; "" where there was nothing to find."""
        return ""

    def describe_test(self, metrics: Metrics) -> str:
        """Say in further lines what `fit_on_val` did to the figures of test; "" where nothing."""
        return ""


def _name_classes(names: Sequence[str]) -> str:
    """Write the number and first names of classes."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
