"""Exact evaluation: every image and every video counts once, nothing is padded or dropped.

With torch.distributed running, each process evaluates its share and all of them get the metrics of the whole.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from vision_peft.data import ImageDataset, ImageDecodeError
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.data.loading.loader import EvalLoader, eval_loader
from vision_peft.data.loading.samples import Batch
from vision_peft.distributed.device import Compute
from vision_peft.distributed.processes import all_gather
from vision_peft.tasks.metrics import Metrics
from vision_peft.tasks.task import NotFinite, Tally, Task
from vision_peft.training.video_logits import VideoLogits


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


def evaluate(model: nn.Module, batches: Iterable[Batch], task: Task, compute: Compute) -> Metrics:
    """Evaluate `model` (left in eval mode) on `batches` of images B C H W or clips B C T H W, labels B, indices B.

    What an `EvalLoader` had to leave out (`unreadable`) counts as wrong. The clips of an `EvalLoader` over videos are
    put together, video by video. All processes get the metrics of the whole; an image that cannot be decoded in one
    of them, where that is an error, is an error in all.

    Raises:
        NotFinite: answers are NaN or infinite, and the task has no figures for that.
    """
    (found,) = evaluate_heads(model, batches, task, compute, 1)
    if isinstance(found, NotFinite):
        raise found
    return found


def evaluate_heads(
    model: nn.Module, batches: Iterable[Batch], task: Task, compute: Compute, heads: int
) -> list[Metrics | NotFinite]:
    """Evaluate as `evaluate` does a model of so many heads, which answers with the logits of all (heads·B ...).

    Of a head without figures the error stands in their place.
    """
    tallies = [task.start_tally() for _ in range(heads)]
    dataset = batches.dataset if isinstance(batches, EvalLoader) else None
    videos, failure = None, None
    try:
        if isinstance(batches, EvalLoader) and batches.dataset.gives_clips:
            videos = collect_video_logits(model, batches, compute, heads)
        else:
            for logits, labels, indices in _predict(model, batches, compute, heads):
                for tally, own in zip(tallies, logits, strict=True):
                    tally.add(own, labels, indices)
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
            numbers, logits, labels = whole.mean_logits()
            if len(labels):
                tally.add(logits, labels, torch.tensor(numbers))
            tally.bad = list(whole.unreadable.values())
    else:
        tallies = [tally.gather() for tally in tallies]
    views = len(dataset) / dataset.count_sources() if dataset is not None and dataset.gives_clips else None
    return [_finish(tally, views) for tally in tallies]


def _finish(tally: Tally, views: float | None) -> Metrics | NotFinite:
    try:
        return tally.finish(views)
    except NotFinite as error:
        return error


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


@contextlib.contextmanager
def say_adapter_is_safe(adapter: Path) -> Iterator[None]:
    """Add to the error of an image that cannot be decoded inside that the training is not lost, and how to go on."""
    try:
        yield
    except ImageDecodeError as error:
        safe = f"The adapter is saved in {adapter}: the same command then only evaluates"
        raise ImageDecodeError(error.path, f"{error.cause}. {safe}") from None
