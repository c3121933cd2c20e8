"""Draw which samples an epoch reads and in which order, from (seed, epoch) alone, and share them between processes."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

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


def balance_classes(labels: Sequence[int]) -> Draw:
    """Return what draws as many places as there are `labels`, of every class that occurs equally many.

    The count is exact: with N samples of C classes every class gets the floor or the ceiling of N / C places, drawn
    which gets which. A class with fewer samples has all of them in turn before one comes again, under another
    augmentation; of a class with more, others are left out in every epoch.
    """
    by_label = torch.sort(torch.from_numpy(np.array(labels, dtype=np.int64)), stable=True)
    groups = by_label.indices.split(torch.unique_consecutive(by_label.values, return_counts=True)[1].tolist())

    def draw(generator: torch.Generator) -> torch.Tensor:
        least, extra = divmod(len(labels), len(groups))
        counts = torch.full((len(groups),), least)
        counts[torch.randperm(len(groups), generator=generator)[:extra]] += 1
        indices, times = [], []
        for group, count in zip(groups, counts.tolist(), strict=True):
            rounds = -(-count // len(group))
            turns = [torch.randperm(len(group), generator=generator) for _ in range(rounds)]
            indices.append(group[torch.cat(turns)[:count]] if turns else group[:0])
            times.append(torch.arange(count) // len(group))
        order = torch.randperm(len(labels), generator=generator)
        return torch.stack([torch.cat(indices), torch.cat(times)], dim=1)[order]

    return draw
