"""Draw which samples an epoch reads and in which order, from (seed, epoch) alone, and share them between processes."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.loading.samples import Key, hash_seed

Draw = Callable[[torch.Generator], torch.Tensor]  # places `N 2`: index of a sample, how often the epoch had it before


class EpochOrder:
    """A batch sampler that yields the share of one process of every global batch, as keys that hold the epoch.

    Args:
        draw: draws the places of an epoch, `samples` of them.
        share: samples of a batch that one process gets.
        repeats: how often each of them comes in its batch.
    """

    def __init__(
        self, draw: Draw, samples: int, seed: int, share: int, rank: int, world_size: int, repeats: int
    ) -> None:
        self.draw, self.seed, self.share, self.rank, self.world_size = draw, seed, share, rank, world_size
        self.repeats = repeats
        self.batches_per_epoch = samples // (share * world_size)
        self.epoch = self.start_batch = 0

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, repeats = self.epoch, self.repeats
        places = self.draw(torch.Generator().manual_seed(hash_seed(self.seed, epoch)))
        starts = [(batch * self.world_size + self.rank) * self.share for batch in range(self.start_batch, len(self))]
        return (
            [(epoch, index, times * repeats + again) for index, times in share.tolist() for again in range(repeats)]
            for share in (places[start : start + self.share] for start in starts)
        )


def shuffle(samples: int) -> Draw:
    """Return what draws every one of `samples` once, in an order of its own each epoch."""

    def draw(generator: torch.Generator) -> torch.Tensor:
        order = torch.randperm(samples, generator=generator)
        return torch.stack([order, torch.zeros_like(order)], dim=1)

    return draw


def list_groups(dataset: ImageDataset) -> Sequence[torch.Tensor]:
    """List the items of each class or grade that occurs; of sets of labels those with each label, and those without.

    Raises:
        ValueError: labels that are neither classes nor sets of them.
    """
    targets, labels = dataset.targets, torch.from_numpy(np.array(dataset.labels, dtype=np.int64))
    if targets is not None and targets.kind not in ("classes", "ordinal", "multilabel"):
        raise ValueError(
            f"data.balanced=true is for classes, grades and sets of labels: {targets.kind} has none of them"
        )
    if targets is None or targets.values is None:
        by_label = torch.sort(labels, stable=True)
        return by_label.indices.split(torch.unique_consecutive(by_label.values, return_counts=True)[1].tolist())
    flags = torch.from_numpy(targets.values).bool()[labels]
    groups = [own.nonzero()[:, 0] for own in (*flags.T, ~flags.any(1))]
    return [group for group in groups if len(group)]


def balance_groups(groups: Sequence[torch.Tensor], samples: int) -> Draw:
    """Return what draws `samples` places, from every group of items equally many; items may be in several groups.

    The count is exact: of N places C groups get the floor or the ceiling of N / C each, drawn which gets which. A
    group with fewer items has all of them in turn before one comes again, under another augmentation; of a group with
    more, others are left out in every epoch.
    """

    def draw(generator: torch.Generator) -> torch.Tensor:
        least, extra = divmod(samples, len(groups))
        counts = torch.full((len(groups),), least)
        counts[torch.randperm(len(groups), generator=generator)[:extra]] += 1
        drawn = []
        for group, count in zip(groups, counts.tolist(), strict=True):
            rounds = -(-count // len(group))
            turns = [torch.randperm(len(group), generator=generator) for _ in range(rounds)]
            drawn.append(group[torch.cat(turns)[:count]] if turns else group[:0])
        order = torch.randperm(samples, generator=generator)
        indices = torch.cat(drawn)
        return torch.stack([indices, _count_before(indices)], dim=1)[order]

    return draw


def _count_before(indices: torch.Tensor) -> torch.Tensor:
    """Count for each place how often its index stands before it."""
    by_index = torch.sort(indices, stable=True)
    counts = torch.unique_consecutive(by_index.values, return_counts=True)[1]
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    before = torch.empty_like(indices)
    before[by_index.indices] = torch.arange(len(indices)) - starts
    return before
