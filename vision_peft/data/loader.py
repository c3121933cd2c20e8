"""Loaders whose batches depend on (seed, epoch, index) alone: not on the number of workers or processes, nor on where
an epoch starts.

The order of an epoch is a permutation drawn from (seed, epoch). A sample's augmentation runs under generators seeded
from (seed, epoch, index), and the caller's generators are put back, so training may draw random numbers beside the
loader.
"""

import hashlib
import os
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.images import ImageDecodeError

MAX_AUTO_WORKERS = 8
WORKER_TIMEOUT_S = 300

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Key = tuple[int, int]


def resolve_workers(workers: int | str, dataset: ImageDataset, processes_per_machine: int = 1) -> int:
    """Worker processes of one loader: as given, or for "auto" none for data in memory, else one a core, at most 8."""
    if workers == "auto":
        if dataset.in_memory:
            return 0
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return max(1, min(cores // processes_per_machine, MAX_AUTO_WORKERS))
    try:
        number = int(workers)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"workers is 'auto' or a number of processes from 0 on, got {workers!r}")
    return number


class TrainLoader:
    """Shuffled batches for training, `batch_size` samples over all `world_size` processes together.

    Every process takes its share of every global batch, so that the shares in the order of `rank` are that batch. The
    samples that do not fill the last batch are left out (others in each epoch). A dataset smaller than a batch gives
    one short batch; several processes share it evenly and leave out the remainder. The dataset's transform is read
    when the first epoch starts.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int,
        workers: int | str = "auto",
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool | None = None,
    ) -> None:
        _check_sizes(dataset, batch_size, rank, world_size)
        if len(dataset) < world_size:
            raise ValueError(f"{len(dataset)} training samples cannot be shared by {world_size} processes: use fewer")
        share = min(batch_size, len(dataset)) // world_size
        self._order = _EpochOrder(len(dataset), seed, share, rank, world_size)
        self._loader = _data_loader(_Seeded(dataset, seed), self._order, workers, pin_memory)

    @property
    def batches_per_epoch(self) -> int:
        return self._order.batches_per_epoch

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches `start_batch`, ... of `epoch` (both from 0): images `B C H W`, labels `B`, dataset indices `B`.

        B is this process' share. Nothing before `start_batch` is decoded. One epoch at a time: starting another ends
        the one before.
        """
        if epoch < 0 or not 0 <= start_batch <= self.batches_per_epoch:
            raise ValueError(
                f"wanted epoch >= 0 and start_batch 0 to {self.batches_per_epoch}, got {epoch} and {start_batch}"
            )
        self._order.epoch, self._order.start_batch = epoch, start_batch
        return _batches(iter(self._loader))


class EvalLoader:
    """All samples in order, each exactly once over all processes, nothing padded; see `eval_loader`."""

    def __init__(self, loader: DataLoader[Any], batches: int) -> None:
        self._loader, self._count = loader, batches

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return _batches(iter(self._loader))


def eval_loader(
    dataset: ImageDataset,
    batch_size: int,
    workers: int | str = "auto",
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool | None = None,
) -> EvalLoader:
    """Iterable of images `B C H W`, labels `B`, dataset indices `B`, in the order of the dataset.

    `batch_size` samples go over all processes together, each taking a contiguous share. The last batch is short and
    its shares may differ by one or be missing, so processes may have different numbers of batches: no collective call
    may stand inside the loop.
    """
    _check_sizes(dataset, batch_size, rank, world_size)
    shares: list[list[Key]] = []
    for start in range(0, len(dataset), batch_size):
        size = min(batch_size, len(dataset) - start)
        first, last = rank * size // world_size, (rank + 1) * size // world_size
        if last > first:
            shares.append([(0, start + place) for place in range(first, last)])
    return EvalLoader(_data_loader(_Seeded(dataset, 0), shares, workers, pin_memory), len(shares))


class _EpochOrder:
    """Batch sampler that yields this process' share of each global batch as (epoch, index) keys, so that workers know
    the epoch.
    """

    def __init__(self, samples: int, seed: int, share: int, rank: int, world_size: int) -> None:
        self.samples, self.seed, self.share, self.rank, self.world_size = samples, seed, share, rank, world_size
        self.batches_per_epoch = samples // (share * world_size)
        self.epoch = self.start_batch = 0

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(_hash(self.seed, epoch))
        order = torch.randperm(self.samples, generator=generator).tolist()
        starts = [(batch * self.world_size + self.rank) * self.share for batch in range(self.start_batch, len(self))]
        return iter([[(epoch, index) for index in order[start : start + self.share]] for start in starts])


class _Seeded(Dataset[Any]):
    """Gives `(image, label, index)` of a key (epoch, index), or the error met, which the main process then raises.

    Raised in a worker it would come out as another type with two tracebacks for its message.
    """

    def __init__(self, dataset: ImageDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int, int] | Exception:
        epoch, index = key
        try:
            with _seeded_generators(_hash(self.seed, epoch, index)):
                image, label = self.dataset[index]
            if not isinstance(image, torch.Tensor):
                raise TypeError(f"wanted a tensor from the dataset's transform, got {type(image).__name__}")
        except ImageDecodeError as error:
            return error
        except Exception as error:
            named = RuntimeError(f"sample {index} ({self.dataset.path(index)}): {type(error).__name__}: {error}")
            named.add_note(traceback.format_exc())
            return named
        return image, label, index


@contextmanager
def _seeded_generators(seed: int) -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    # not torch.manual_seed: that would also reseed the accelerator, whose generator belongs to training
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def _hash(*numbers: int) -> int:
    text = ",".join(str(number) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1  # torch takes 63 bits


def _collate(samples: list[Any]) -> Batch | Exception:
    for sample in samples:
        if isinstance(sample, Exception):
            return sample
    images, labels, indices = zip(*samples, strict=True)
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        return ValueError(f"the images of a batch must have one shape, got {shapes}: the transform must fix the size")
    return torch.stack(images), torch.tensor(labels), torch.tensor(indices)


def _batches(results: Iterator[Any]) -> Iterator[Batch]:
    for result in results:
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # this frame and the error must not hold each other: workers then end only by a timeout
        yield result


def _data_loader(dataset: _Seeded, sampler: Any, workers: int | str, pin_memory: bool | None) -> DataLoader[Any]:
    number = resolve_workers(workers, dataset.dataset)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=number,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        persistent_workers=number > 0,
        timeout=WORKER_TIMEOUT_S if number else 0,
        generator=torch.Generator(),  # else every epoch would take a number from the caller's generator
    )


def _check_sizes(dataset: ImageDataset, batch_size: int, rank: int, world_size: int) -> None:
    if not len(dataset):
        raise ValueError("the dataset is empty")
    if not 0 <= rank < world_size:
        raise ValueError(f"wanted rank 0 to {world_size - 1}, got {rank}")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"batch_size is that of all processes together: wanted a multiple of {world_size}, got {batch_size}"
        )
