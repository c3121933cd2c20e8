"""Exact evaluation: every image counts once, nothing is padded or dropped."""

import csv
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vision_peft.data.loader import EvalLoader
from vision_peft.data.samples import Batch
from vision_peft.training.device import Compute

# Fixed, so that another recipe.batch_size or another tool cannot move a figure.
BATCH_SIZE = 64
LARGEST_CONFUSION = 400


@dataclass(frozen=True)
class Metrics:
    """Figures of one split in percent; None is what the split cannot tell.

    An undecodable image counts as a wrong answer in every accuracy. It has no prediction, so `confusion` and `loss` are
    those of the others.
    """

    top1: float
    top5: float | None  # None with five classes or fewer, where it would say nothing
    mean_per_class: float  # mean over the classes that have images
    per_class: dict[str, float | None]  # by class name; None: no image of it
    confusion: list[list[int]]  # [truth][prediction] counts
    loss: float  # mean cross entropy, without label smoothing
    images: int  # the undecodable ones among them
    bad: int = 0  # of `images`, undecodable


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], classes: list[str], compute: Compute) -> Metrics:
    """Evaluate `model` (left in eval mode) on `batches` of images B C H W, labels B, indices B.

    What an `EvalLoader` had to leave out (`unreadable`) counts as wrong.
    """
    # torchmetrics takes seconds to import, which a typo on the command line should not wait for
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    model.eval()
    number = len(classes)
    confusion = torch.zeros(number, number, dtype=torch.int64)
    loss, in_top5, images = 0.0, 0, 0
    for inputs, labels, _ in batches:
        with compute.autocast():
            logits = model(inputs.to(compute.device, non_blocking=True))
        logits = logits.float().cpu()
        confusion += multiclass_confusion_matrix(logits.argmax(1), labels, number)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        if number > 5:
            in_top5 += int((logits.topk(5).indices == labels[:, None]).sum())
        images += len(labels)
    bad = torch.tensor(batches.unreadable_labels if isinstance(batches, EvalLoader) else [], dtype=torch.int64)
    if not images:
        none = f"none of the {len(bad)} images can be decoded" if len(bad) else "the split to evaluate holds no images"
        raise ValueError(none)
    loss /= images
    images += len(bad)
    right, support = confusion.diagonal().double(), confusion.sum(1) + torch.bincount(bad, minlength=number)
    present = support > 0
    shares = 100 * right / support
    return Metrics(
        top1=100 * right.sum().item() / images,
        top5=100 * in_top5 / images if number > 5 else None,
        mean_per_class=shares[present].mean().item(),
        per_class={name: shares[i].item() if present[i] else None for i, name in enumerate(classes)},
        confusion=confusion.tolist(),
        loss=loss,
        images=images,
        bad=len(bad),
    )


def write_confusion(path: Path, metrics: Metrics) -> None:
    """Write the confusion matrix as CSV: a row per true class, a column per predicted one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *metrics.per_class])
        for name, counts in zip(metrics.per_class, metrics.confusion, strict=True):
            writer.writerow([name, *counts])


def metric_words(metrics: Metrics) -> str:
    """The figures in one line."""
    top5 = "" if metrics.top5 is None else f"  top-5 {metrics.top5:.2f} %"
    bad = f", {metrics.bad} of them undecodable and counted as wrong" if metrics.bad else ""
    return (
        f"top-1 {metrics.top1:.2f} %{top5}  mean per class {metrics.mean_per_class:.2f} %  "
        f"loss {metrics.loss:.4f}  ({metrics.images} images{bad})"
    )


def check_classes(trained_on: list[str] | None, number: int, given: list[str], where: str) -> None:
    """Refuse data whose classes are not those of an adapter with `number` classes.

    Raises:
        ValueError: another number of classes, or the same names in another order; both sides are named.
    """
    ours = trained_on or [f"class {index}" for index in range(number)]
    if len(given) != number:
        raise ValueError(
            f"the adapter has {number} classes ({_names(ours)}), {where} has {len(given)} ({_names(given)}): "
            "give the data that it was trained on"
        )
    if trained_on and given != trained_on and sorted(given) == sorted(trained_on):
        raise ValueError(f"{where} has the adapter's classes in another order: {_names(given)} against {_names(ours)}")
    if trained_on and given != trained_on:
        warnings.warn(
            f"{where} names its classes {_names(given)}, the adapter was trained on {_names(ours)}: they are taken for "
            "the same, in this order",
            stacklevel=2,
        )


def to_json(metrics: Metrics) -> Mapping[str, Any]:
    """The metrics as result.json names them."""
    return {
        "top1": metrics.top1,
        "top5": metrics.top5,
        "mean_per_class": metrics.mean_per_class,
        "n_bad": metrics.bad,
        "per_class": metrics.per_class,
        "confusion": metrics.confusion if len(metrics.confusion) <= LARGEST_CONFUSION else None,
    }


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else ", ".join(names[:12]) + ", ..."
