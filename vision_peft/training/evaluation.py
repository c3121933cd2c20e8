"""Exact evaluation: every image and every video counts once, nothing is padded or dropped.

With torch.distributed running, each process evaluates its share and all of them get the metrics of the whole.
"""

import contextlib
import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.calibration import Reliability, find_probabilities
from vision_peft.data import ImageDataset, ImageDecodeError
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.data.loading.loader import EvalLoader, eval_loader
from vision_peft.data.loading.samples import Batch
from vision_peft.distributed.device import Compute
from vision_peft.distributed.processes import all_gather, all_gather_tensors, all_reduce_sum
from vision_peft.printable import for_csv
from vision_peft.safe_files import write_file
from vision_peft.training.video_logits import VideoLogits

LARGEST_CONFUSION = 400


@dataclass(frozen=True)
class Metrics:
    """Figures of one split in percent; None is what the split cannot tell.

    An undecodable image counts as a wrong answer in every accuracy, and so does one that the model answers with NaN or
    infinity. Neither has a prediction, so `pairs` and `loss` are those of the others. A video is one item, whose
    answer is the mean over its views; it is undecodable where one of them is.
    """

    top1: float
    top5: float | None  # None with five classes or fewer, where it would say nothing
    mean_per_class: float  # mean over the classes that have images
    per_class: dict[str, float | None]  # by class name; None: no image of it
    pairs: list[tuple[int, int, int]]  # truth, prediction, how often; in this order
    loss: float  # mean cross entropy, without label smoothing
    images: int  # or videos, the undecodable ones among them
    bad: int = 0  # of `images`, undecodable
    non_finite: int = 0  # of `images`, answered with NaN or infinity
    views: float | None = None  # of each video, on average; None: images
    ece: float | None = None  # expected calibration error in percent, 15 bins; of the answers that have a prediction
    ece_raw: float | None = None  # the same without the temperature; equal to `ece` where there is none

    @property
    def confusion(self) -> list[list[int]] | None:
        """Counts [truth][prediction]; None above `LARGEST_CONFUSION` classes, where they grow with the square."""
        if len(self.per_class) > LARGEST_CONFUSION:
            return None
        counts = [[0] * len(self.per_class) for _ in self.per_class]
        for truth, predicted, count in self.pairs:
            counts[truth][predicted] = count
        return counts


def create_eval_loader(
    dataset: ImageDataset,
    compute: Compute,
    workers: int | str,
    bad: str = "error",
    bad_files: BadFiles | None = None,
) -> EvalLoader:
    """Load this process's share of a dataset, in the batches that a single process would see."""
    size = dataset.eval_batch_size * compute.world_size
    return eval_loader(dataset, size, workers, **compute.share, device=compute.device, bad=bad, bad_files=bad_files)


def evaluate(
    model: nn.Module, batches: Iterable[Batch], classes: list[str], compute: Compute, temperature: float | None = None
) -> Metrics:
    """Evaluate `model` (left in eval mode) on `batches` of images B C H W or clips B C T H W, labels B, indices B.

    What an `EvalLoader` had to leave out (`unreadable`) counts as wrong. The clips of an `EvalLoader` over videos are
    put together, video by video. All processes get the metrics of the whole; an image that cannot be decoded in one
    of them, where that is an error, is an error in all.
    """
    return evaluate_heads(model, batches, classes, compute, 1, temperature)[0]


def evaluate_heads(
    model: nn.Module,
    batches: Iterable[Batch],
    classes: list[str],
    compute: Compute,
    heads: int,
    temperature: float | None = None,
) -> list[Metrics]:
    """Evaluate as `evaluate` does a model of so many heads, which answers with the logits of all (heads·B classes)."""
    tallies = [_Tally(len(classes), temperature) for _ in range(heads)]
    dataset = batches.dataset if isinstance(batches, EvalLoader) else None
    videos, failure = None, None
    try:
        if isinstance(batches, EvalLoader) and batches.dataset.gives_clips:
            videos = collect_video_logits(model, batches, compute, heads)
        else:
            for logits, labels, _ in _predict(model, batches, compute, heads):
                for tally, own in zip(tallies, logits, strict=True):
                    tally.add(own, labels)
            for tally in tallies:
                tally.bad = batches.unreadable_labels if isinstance(batches, EvalLoader) else []
    except ImageDecodeError as error:
        failure = error
    for undecodable in all_gather(_describe(failure)):
        if undecodable is not None:
            raise ImageDecodeError(*undecodable)
    if videos is not None:
        for tally, own in zip(tallies, videos, strict=True):
            whole = own.gather()
            _, logits, labels = whole.mean_logits()
            if len(labels):
                tally.add(logits, labels)
            tally.bad = list(whole.unreadable.values())
    else:
        tallies = [tally.gather() for tally in tallies]
    views = len(dataset) / dataset.count_sources() if dataset is not None and dataset.gives_clips else None
    return [_metrics(tally, classes, views) for tally in tallies]


def collect_video_logits(model: nn.Module, batches: EvalLoader, compute: Compute, heads: int = 1) -> list[VideoLogits]:
    """Compute what every head answers to the images, or views of videos, that this process got, averaged by video."""
    found = [VideoLogits(batches.dataset.source_of, batches.dataset.view_average) for _ in range(heads)]
    for logits, labels, indices in _predict(model, batches, compute, heads):
        for videos, own in zip(found, logits, strict=True):
            videos.add(own, labels, indices)
    for videos in found:
        videos.mark_unreadable(batches.unreadable, batches.unreadable_labels)
    return found


@torch.no_grad()
def _predict(model: nn.Module, batches: Iterable[Batch], compute: Compute, heads: int = 1) -> Iterator[Batch]:
    """Logits heads B classes (fp32, on the CPU), labels and indices of every batch."""
    model.eval()
    for inputs, labels, indices in _in_lockstep(batches) if compute.sharded else batches:
        with compute.autocast():
            logits = model(inputs.to(compute.device, non_blocking=True))
        yield logits.unflatten(0, (heads, -1))[:, : len(labels)].float().cpu(), labels, indices


def _in_lockstep(batches: Iterable[Batch]) -> Iterator[Batch]:
    """As many batches as the process with the most has, for a model in shards that only all can run together.

    Where this process has no more, zeros without a label take their place.
    """
    iterator, nothing = iter(batches), torch.empty(0, dtype=torch.int64)
    while True:
        batch, failure = None, None
        try:
            batch = next(iterator, None)
        except ImageDecodeError as error:
            failure = error
        everyone = all_gather([None if batch is None else list(batch[0].shape[1:]), _describe(failure)])
        for _, undecodable in everyone:
            if undecodable is not None:
                raise ImageDecodeError(*undecodable)
        shapes = [shape for shape, _ in everyone if shape is not None]
        if not shapes:
            return
        yield batch or (torch.zeros(1, *shapes[0]), nothing, nothing)


def _describe(failure: ImageDecodeError | None) -> list[str] | None:
    """Return what makes the error again in another process."""
    return None if failure is None else [failure.path, failure.cause]


class _Tally:
    """Counts over the items of a split. They take as much memory as there are items, however many classes there are."""

    def __init__(self, classes: int, temperature: float | None) -> None:
        self.classes, self.temperature = classes, temperature
        self.calibrated, self.raw = Reliability(), Reliability()
        self.pairs: list[Tensor] = [torch.empty(0, dtype=torch.int64)]  # truth x classes + prediction, item by item
        self.loss, self.in_top5, self.items = 0.0, 0, 0
        self.bad: list[int] = []  # labels of the undecodable items
        self.non_finite: list[int] = []  # labels of the items that the model answered with NaN or infinity

    def add(self, logits: Tensor, labels: Tensor) -> None:
        if logits.shape[1] != self.classes:
            raise ValueError(f"the model answers with {logits.shape[1]} numbers, the data has {self.classes} classes")
        finite = logits.isfinite().all(1)
        self.non_finite += labels[~finite].tolist()
        logits, labels = logits[finite], labels[finite]
        self.pairs.append(labels * self.classes + logits.argmax(1))
        self.loss += F.cross_entropy(logits, labels, reduction="sum").item()
        if self.classes > 5:
            self.in_top5 += int((logits.topk(5).indices == labels[:, None]).sum())
        self.items += len(labels)
        self.calibrated.add(find_probabilities(logits, self.temperature), labels)
        self.raw.add(find_probabilities(logits), labels)

    def gather(self) -> "_Tally":
        """Those of all processes together; every process gets the same."""
        whole = _Tally(self.classes, self.temperature)
        whole.pairs = all_gather_tensors(torch.cat(self.pairs))
        for loss, in_top5, items, bad, non_finite in all_gather(
            [self.loss, self.in_top5, self.items, self.bad, self.non_finite]
        ):
            whole.loss, whole.in_top5, whole.items = whole.loss + loss, whole.in_top5 + in_top5, whole.items + items
            whole.bad, whole.non_finite = whole.bad + bad, whole.non_finite + non_finite
        whole.calibrated, whole.raw = self.calibrated.gather(all_reduce_sum), self.raw.gather(all_reduce_sum)
        return whole


def _metrics(tally: _Tally, classes: list[str], views: float | None) -> Metrics:
    number, missed = len(classes), torch.tensor(tally.bad + tally.non_finite, dtype=torch.int64)
    what = "images" if views is None else "videos"
    if not tally.items and not tally.non_finite:
        number = len(tally.bad)
        reason = f"none of the {number} {what} can be decoded" if number else f"the split to evaluate holds no {what}"
        raise ValueError(reason)
    items, (pairs, times) = tally.items + len(missed), torch.cat(tally.pairs).unique(return_counts=True)
    truth, predicted = pairs // number, pairs % number
    right = torch.bincount(truth, times * (truth == predicted), minlength=number)
    support = torch.bincount(torch.cat([missed, truth.repeat_interleave(times)]), minlength=number)
    present = support > 0
    shares = 100 * right / support
    return Metrics(
        top1=100 * right.sum().item() / items,
        top5=100 * tally.in_top5 / items if number > 5 else None,
        mean_per_class=shares[present].mean().item(),
        per_class={name: shares[i].item() if present[i] else None for i, name in enumerate(classes)},
        pairs=[*zip(truth.tolist(), predicted.tolist(), times.tolist(), strict=True)],
        loss=tally.loss / tally.items if tally.items else math.nan,
        images=items,
        bad=len(tally.bad),
        non_finite=len(tally.non_finite),
        views=views,
        ece=tally.calibrated.error,
        ece_raw=tally.raw.error,
    )


def write_confusion(path: Path, metrics: Metrics) -> None:
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


def format_metrics(metrics: Metrics) -> str:
    """Write the figures in one line."""
    top5 = "" if metrics.top5 is None else f"  top-5 {metrics.top5:.2f} %"
    items = "images" if metrics.views is None else "videos"
    if metrics.views is not None and metrics.views != 1:
        items += (
            f", {metrics.views:g} views each" if metrics.views % 1 == 0 else f", {metrics.views:.2f} views on average"
        )
    bad = f", {metrics.bad} of them undecodable and counted as wrong" if metrics.bad else ""
    bad += f", {metrics.non_finite} answered with NaN or infinity and counted as wrong" if metrics.non_finite else ""
    return (
        f"top-1 {metrics.top1:.2f} %{top5}  mean per class {metrics.mean_per_class:.2f} %  "
        f"loss {metrics.loss:.4f}  ({metrics.images} {items}{bad})"
    )


@contextlib.contextmanager
def say_adapter_is_safe(adapter: Path) -> Iterator[None]:
    """Add to the error of an image that cannot be decoded inside that the training is not lost, and how to go on."""
    try:
        yield
    except ImageDecodeError as error:
        safe = f"The adapter is safe in {adapter}: the same command then only evaluates"
        raise ImageDecodeError(error.path, f"{error.cause}. {safe}") from None


def to_json(metrics: Metrics) -> Mapping[str, Any]:
    """Return the metrics as result.json names them."""
    return {
        "top1": metrics.top1,
        "top5": metrics.top5,
        "mean_per_class": metrics.mean_per_class,
        "ece": metrics.ece,
        "ece_raw": metrics.ece_raw,
        "n_bad": metrics.bad,
        "n_non_finite": metrics.non_finite,
        "per_class": metrics.per_class,
        "confusion": metrics.confusion,
    }
