"""Load batches that depend on (seed, epoch, index) alone.

They do not depend on the number of workers or processes, nor on where an epoch starts. The order of an epoch is drawn
from (seed, epoch). A sample's augmentation runs under generators seeded from (seed, epoch, index) and, where the epoch
repeats it, the number of the repeat; the caller's generators are put back, so training may draw random numbers beside
the loader. In training the place of an undecodable image is taken by the next one of the dataset that decodes (after
the last comes the first), with the augmentation of the place.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from vision_peft.data.choices import BAD_IN_EVALUATION
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.data.loading.batches import CPU, read_results, resolve_workers, start_reading, yield_batches
from vision_peft.data.loading.class_batches import group_classes
from vision_peft.data.loading.measured_workers import ReadingTimes
from vision_peft.data.loading.order import EpochOrder, balance_groups, list_groups, shuffle
from vision_peft.data.loading.samples import Batch, Key
from vision_peft.data.problems import unknown


class TrainLoader:
    """Shuffled batches for training, `batch_size` samples over all `world_size` processes together.

    Every process takes its share of every global batch, so that the shares in the order of `rank` are that batch. The
    samples that do not fill the last batch are left out (others in each epoch). A dataset smaller than a batch gives
    one short batch; several processes share it evenly and leave out the remainder. The dataset's transform is read
    when the first epoch starts.

    With `repeated_augmentation` every sample comes that often in a row, each time augmented anew, and a batch holds so
    many fewer samples. With `balanced` an epoch is as long, but has every class equally often (`balance_groups`).

    Undecodable images are replaced and noted in `bad_files`, up to the share `max_bad_fraction` of the dataset; with
    more than that `TooManyBadFiles` is raised, with 0 the first `ImageDecodeError`.

    With `workers="auto"` the first batches that are not in memory are read in this process and timed, then as many
    processes as are needed go on, at most those of `resolve_workers`; `report` gets a line about it.
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
        device: torch.device = CPU,
        max_bad_fraction: float = 0.0,
        bad_files: BadFiles | None = None,
        repeated_augmentation: int = 1,
        balanced: bool = False,
        images_per_class: int | None = None,
        report: Callable[[str], None] = lambda words: None,
    ) -> None:
        _check_sizes(dataset, batch_size, rank, world_size)
        repeats = repeated_augmentation
        if repeats < 1 or batch_size % (repeats * world_size):
            raise ValueError(
                f"each sample is {repeats} times in its batch: wanted a batch size that is a multiple of "
                f"{max(repeats, 1) * world_size}, "
                f"got batch_size {batch_size}"
            )
        if len(dataset) < world_size:
            raise ValueError(
                f"{len(dataset)} training samples are too few for {world_size} processes: use fewer processes"
            )
        share = min(batch_size // repeats, len(dataset)) // world_size
        draw = balance_groups(list_groups(dataset), len(dataset)) if balanced else shuffle(len(dataset))
        if images_per_class is not None:
            share = _check_groups(share, batch_size // world_size, images_per_class, repeats, balanced)
            draw = group_classes(dataset.labels, images_per_class, share)
        self._order = EpochOrder(draw, len(dataset), seed, share, rank, world_size, repeats)
        self._dataset, self._most = dataset, max_bad_fraction
        self._bad: dict[str, None] = {}
        self._bad_files = BadFiles() if bad_files is None else bad_files
        spare = int(max_bad_fraction * len(dataset) + 1e-9)
        self._report, self._times = report, ReadingTimes()
        most = resolve_workers(workers, dataset, device=device)
        self._most_workers = most if workers == "auto" and most and dataset.as_tensor() is None else None
        self._read = partial(read_results, dataset, seed, spare, self._order, device=device)
        self._loader = self._read(workers=most if self._most_workers is None else 0)

    @property
    def batches_per_epoch(self) -> int:
        return self._order.batches_per_epoch

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of `epoch` from `start_batch` on: images `B C H W`, labels `B`, dataset indices `B`.

        B is this process' share. Indices and labels are those of the images that came, also where one was replaced.
        Nothing before `start_batch` is decoded, but for a dataset that keeps all its images. One epoch at a time:
        starting another ends the one before.
        """
        if epoch < 0 or not 0 <= start_batch <= self.batches_per_epoch:
            raise ValueError(
                f"wanted epoch >= 0 and start_batch 0 to {self.batches_per_epoch}, got {epoch} and {start_batch}"
            )
        self._order.epoch, self._order.start_batch = epoch, start_batch
        self._dataset.prepare()
        batches = yield_batches(start_reading(self._loader), self._note)
        return batches if self._most_workers is None else self._choose_workers(batches, epoch, start_batch)

    def _choose_workers(self, batches: Iterator[Batch], epoch: int, start_batch: int) -> Iterator[Batch]:
        """Yield the batches, of which the first are timed, and the others from the processes that these ask for."""
        before = len(self._times.read)
        yield from self._times.time_batches(batches)
        if self._most_workers is not None and self._times.enough:
            workers = self._times.choose_workers(self._most_workers)
            self._most_workers = None
            self._report(self._times.describe(workers))
            if workers:
                self._loader = self._read(workers=workers)
                batches = self.epoch(epoch, start_batch + len(self._times.read) - before)
        yield from batches

    def _note(self, errors: list[ImageDecodeError], missing: Sequence[int]) -> None:
        for error in errors:
            self._bad[error.path] = None
            self._bad_files.add(error, "training uses the next image instead")
        if errors and self._most:
            self._bad_files.check(self._bad, len(self._dataset), self._most)
        if missing:
            raise ImageDecodeError(errors[0].path, errors[0].cause)  # a new one: the old is held by this very frame


class EvalLoader:
    """All samples in order, each exactly once over all processes, nothing padded; see `eval_loader`."""

    def __init__(
        self, dataset: ImageDataset, loader: Iterable[Any], batches: int, bad: str, bad_files: BadFiles
    ) -> None:
        self.unreadable: list[int] = []  # indices of this process' samples that no batch held, since the last start
        self.dataset, self._loader, self._count = dataset, loader, batches
        self._bad, self._bad_files = bad, bad_files

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable = []
        self.dataset.prepare()
        return yield_batches(start_reading(self._loader), self._note)

    @property
    def unreadable_labels(self) -> list[int]:
        """The labels of the `unreadable` samples."""
        return [self.dataset.labels[index] for index in self.unreadable]

    def _note(self, errors: list[ImageDecodeError], missing: Sequence[int]) -> None:
        for error in errors:
            if self._bad == "error":
                ways_out = "fix the file, or count such images as wrong answers with bad_eval=wrong"
                raise ImageDecodeError(error.path, f"{error.cause}; {ways_out}")
            self._bad_files.add(error, "evaluation counts it as wrong")
        self.unreadable.extend(missing)


def eval_loader(
    dataset: ImageDataset,
    batch_size: int,
    workers: int | str = "auto",
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device = CPU,
    bad: str = "error",
    bad_files: BadFiles | None = None,
) -> EvalLoader:
    """Iterate over images `B C H W`, labels `B`, dataset indices `B`, in the order of the dataset.

    `batch_size` samples go over all processes together, each taking a contiguous share of the same size. Of the last
    batch a share may be short and the ones after it missing, so processes may have different numbers of batches: no
    collective call may be made inside the loop. k processes with k times the `batch_size` see the same batches as one.

    An undecodable image raises `ImageDecodeError`; with `bad="wrong"` its batch comes without it (or not at all), it is
    noted in `bad_files` and in the loader's `unreadable`, and whoever counts has to count it.
    """
    if bad not in BAD_IN_EVALUATION:
        raise unknown("bad_eval", bad, BAD_IN_EVALUATION)
    _check_sizes(dataset, batch_size, rank, world_size)
    shares = _InOrder(len(dataset), batch_size, rank, world_size)
    loader = read_results(dataset, 0, 0, shares, workers, device)
    return EvalLoader(dataset, loader, len(shares), bad, BadFiles() if bad_files is None else bad_files)


class _InOrder:
    """A batch sampler that yields the share of one process of every batch, in the order of the dataset."""

    def __init__(self, samples: int, batch_size: int, rank: int, world_size: int) -> None:
        share = batch_size // world_size
        self.firsts, self.share, self.samples = range(rank * share, samples, batch_size), share, samples

    def __len__(self) -> int:
        return len(self.firsts)

    def __iter__(self) -> Iterator[list[Key]]:
        for first in self.firsts:
            yield [(0, index, 0) for index in range(first, min(first + self.share, self.samples))]


def _check_groups(share: int, wanted: int, per_class: int, repeats: int, balanced: bool) -> int:
    """Return the samples of a batch that a process gets, in whole groups of `per_class`."""
    if balanced or repeats > 1:
        other = "balanced" if balanced else "repeated_augmentation"
        raise ValueError(f"images_per_class={per_class} draws every class equally often already: leave {other} out")
    if wanted % per_class:
        raise ValueError(
            f"the part of a batch that a process computes at once, {wanted} images, must be a multiple of "
            f"images_per_class={per_class}: change recipe.batch_size or recipe.accumulate"
        )
    if share < per_class:
        raise ValueError(f"{share} training samples for each process are fewer than images_per_class={per_class}")
    return share - share % per_class


def _check_sizes(dataset: ImageDataset, batch_size: int, rank: int, world_size: int) -> None:
    if not len(dataset):
        raise ValueError("the dataset is empty")
    if not 0 <= rank < world_size:
        raise ValueError(f"wanted rank 0 to {world_size - 1}, got {rank}")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"batch_size is that of all processes together: wanted a multiple of {world_size}, got {batch_size}"
        )
