"""Read batches of samples: by worker processes, in this process, or from a tensor that holds all items."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.loading.lost_workers import defer_errors, report_lost_workers
from vision_peft.data.loading.samples import Batch, Key, Result, SeededSamples, collate
from vision_peft.data.loading.worker_limit import count_cores, too_many_workers

MAX_AUTO_WORKERS = 8
WORKER_TIMEOUT_S = 300
CPU = torch.device("cpu")


class Batches(Protocol):
    """A batch sampler that knows how many batches it has."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Key]]: ...


def resolve_workers(
    workers: int | str,
    dataset: ImageDataset,
    processes_per_machine: int | None = None,
    device: torch.device = CPU,
) -> int:
    """Choose the number of worker processes of one loader.

    "auto" is one a core, at most 8, and none for data in memory where the `device` that gets the batches is not a GPU.
    Training processes share the cores; torchrun says in LOCAL_WORLD_SIZE how many there are.
    """
    if workers == "auto":
        if dataset.as_tensor() is not None or (dataset.in_memory and device.type != "cuda"):
            return 0  # one process prepares some 800 kept images a second: enough for a CPU, not for a GPU
        processes = processes_per_machine or int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return max(1, min(count_cores() // processes, MAX_AUTO_WORKERS))
    try:
        number = int(workers)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"workers must be 'auto' or a whole number from 0, got {workers!r}")
    if problem := too_many_workers(number):
        raise ValueError(problem)
    return number


def start_reading(loader: Iterable[Any]) -> Iterator[Any]:
    """Start reading what `read_results` returned, and its worker processes where it has some."""
    with report_lost_workers():
        results = iter(loader)
        defer_errors()
    return results


def yield_batches(
    results: Iterator[Any], note: Callable[[list[ImageDecodeError], Sequence[int]], None]
) -> Iterator[Batch]:
    """Yield the batches of `results` after `note` got the errors met on the way and the indices without an image.

    Raises the first result that is an error.
    """
    while True:
        with use_one_thread(), report_lost_workers():
            result = next(results, None)
        if result is None:
            return
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # this frame and the error must not hold each other: workers then end only by a timeout
        batch, errors, missing = result
        note(errors, missing)
        if batch is not None:
            yield batch


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Compute as the DataLoader's workers do: on tensors as small as one image, threads wait more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _TensorBatches:
    """Batches indexed from a tensor that holds all items: a DataLoader would take longer than the indexing."""

    def __init__(self, items: torch.Tensor, labels: torch.Tensor, sampler: Iterable[list[Key]]) -> None:
        self.items, self.labels, self.sampler = items, labels, sampler

    def __iter__(self) -> Iterator[Result]:
        for keys in self.sampler:
            indices = torch.tensor([index for _, index, _ in keys])
            labels = self.labels[indices]  # of masks as they are kept, in few bits
            labels = labels if labels.is_floating_point() else labels.long()
            yield (self.items[indices], labels, indices), [], []


def read_results(
    dataset: ImageDataset,
    seed: int,
    spare: int,
    sampler: Batches,
    workers: int | str,
    device: torch.device,
) -> Iterable[Any]:
    """Return what gives a `Result`, or an error, for each batch of keys; there is no process without a batch."""
    if (items := dataset.as_tensor()) is not None:
        return _TensorBatches(items, dataset.label_tensor(), sampler)
    number = min(resolve_workers(workers, dataset, device=device), len(sampler))
    return DataLoader(
        SeededSamples(dataset, seed, spare),
        batch_sampler=sampler,
        num_workers=number,
        collate_fn=collate,
        pin_memory=device.type == "cuda",  # pinning for another device would make a context on the GPU
        persistent_workers=number > 0,
        timeout=WORKER_TIMEOUT_S if number else 0,
        generator=torch.Generator(),  # else every epoch would take a number from the caller's generator
    )
