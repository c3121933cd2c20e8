"""Images that a method wants before it trains: how many, of which classes, seen how."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplesNeeded:
    """What ``vp.attach`` asks its caller for, and which images of the training split the pipeline gives.

    At most one of the two numbers is given; without them it is every image.
    """

    purpose: str  # completes "<Method> needs images ...": "to start its prompts from"
    per_class: int | None = None  # the first so many of every class
    total: int | None = None  # so many in all, the classes in turn
    augmented: bool = False  # as training sees them, with the recipe's augmentation, instead of as evaluation does
    views: int = 1  # of augmented ones, how often every image comes in its batch; with more than 1 they are shuffled
    logits: bool = False  # the head is on the model when they come

    def choose(self, labels: Sequence[int]) -> list[int]:
        """Choose items, in the order of the data, from the label of every item."""
        if self.per_class is None and self.total is None:
            return list(range(len(labels)))
        seen = Counter[int]()
        rounds: list[tuple[int, int]] = []  # how many of its class come before an item, item
        for item, label in enumerate(labels):
            rounds.append((seen[label], item))
            seen[label] += 1
        if self.per_class is not None:
            return [item for before, item in rounds if before < self.per_class]
        return sorted(item for _, item in sorted(rounds)[: self.total])
