"""Draw batches of P classes with K samples each, from (seed, epoch) alone: what learning from pairs wants."""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch

from vision_peft.data.loading.order import Draw


def group_classes(labels: Sequence[int], per_class: int, part: int) -> Draw:
    """Return what draws places in groups of `per_class` samples of a class; parts of a batch have different classes.

    Every class that occurs comes equally often, give or take one group: they are dealt in rounds, each in an order of
    its own. A class hands out all of its samples before one comes again, under another augmentation.

    Args:
        labels: of all samples.
        per_class: samples of a class that follow each other.
        part: samples of a batch that one process gets, a multiple of `per_class`; no class comes twice in them where
            there are enough.
    """
    by_label = torch.sort(torch.from_numpy(np.array(labels, dtype=np.int64)), stable=True)
    groups = by_label.indices.split(torch.unique_consecutive(by_label.values, return_counts=True)[1].tolist())

    def draw(generator: torch.Generator) -> torch.Tensor:
        hands = [_Hand(group, generator) for group in groups]
        waiting, here, places = deque[int](), set[int](), list[tuple[int, int]]()
        for number in range(len(labels) // per_class):
            if number % (part // per_class) == 0:
                here.clear()
            if not waiting:  # those that are in this part already come last
                order = torch.randperm(len(groups), generator=generator).tolist()
                waiting.extend(sorted(order, key=here.__contains__))
            chosen = waiting.popleft()
            here.add(chosen)
            places += hands[chosen].deal(per_class)
        return torch.tensor(places, dtype=torch.int64).reshape(-1, 2)

    return draw


class _Hand:
    """The samples of a class, dealt in turns, each in a new order."""

    def __init__(self, samples: torch.Tensor, generator: torch.Generator) -> None:
        self.samples, self.generator = samples, generator
        self.turn, self.left = -1, list[int]()

    def deal(self, number: int) -> list[tuple[int, int]]:
        """Return so many samples, each with how often the epoch had it before."""
        dealt: list[tuple[int, int]] = []
        while len(dealt) < number:
            if not self.left:
                order = self.samples[torch.randperm(len(self.samples), generator=self.generator)].tolist()
                just = {sample for sample, _ in dealt}  # come last, so that a group has them once where it can
                self.turn, self.left = self.turn + 1, sorted(order, key=just.__contains__)
            dealt.append((self.left.pop(0), self.turn))
        return dealt
