"""All items of a dataset of users' own, read once, and which of them each split has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vision_peft.data.annotations.split_by_name import SplitByName
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.targets import Targets


@dataclass
class SplitItems:
    """Items and the parts they are in.

    Args:
        paths: of the items of all parts.
        names: of each of them, by which they are drawn; see `name_below`.
        labels: of each of them, from 0.
        classes: names in label order.
        parts: places in `paths` of "train", "val", "test" as far as the data has them.
        draw: what drew parts that the data has not, once `draw_parts` did.
    """

    paths: TextArray
    names: TextArray
    labels: IntArray
    classes: list[str]
    parts: dict[str, Sequence[int] | np.ndarray]
    draw: SplitByName | None = field(default=None, init=False)
    targets: Targets | None = field(default=None, init=False)  # what labels stand for, where that is not a class each

    def draw_parts(self, divided: str, shares: Mapping[str, float], seed: int, where: str) -> None:
        """Divide the part `divided` into train and the parts `shares`, by the names of its items.

        Args:
            where: the data, for messages.
        """
        whole = np.asarray(self.parts.pop(divided), dtype=np.int64)
        labels = self.labels.take(whole)
        if not self._labels_are_classes:
            labels = IntArray(np.zeros(len(whole), dtype=np.int64))
        self.draw = SplitByName(self.names.take(whole), labels, shares, seed, where)
        self.parts |= {name: whole[items] for name, items in self.draw.parts.items()}

    def keep(self, places: Sequence[int]) -> "SplitItems":
        """Return the items at these places, in rising order, alone."""
        kept = np.asarray(places, dtype=np.int64)
        parts: dict[str, Sequence[int] | np.ndarray] = {
            name: np.flatnonzero(np.isin(kept, np.asarray(part, dtype=np.int64))) for name, part in self.parts.items()
        }
        of_kept = self.paths.take(kept), self.names.take(kept), self.labels.take(kept)
        found = SplitItems(*of_kept, self.classes, parts)
        found.targets = self.targets
        return found

    def take(self, split: str) -> tuple[TextArray, IntArray]:
        """Return paths and labels of a split; trainval is train with val behind it.

        Warns of classes that a drawn split has nothing of; ValueError where it has nothing at all.
        """
        joined = split == "trainval"
        items = np.concatenate([self.parts["train"], self.parts["val"]]) if joined else self.parts[split]
        if self.draw is not None:
            self.draw.check(split, self.classes if self._labels_are_classes else self.classes[:1])
        return self.paths.take(items), self.labels.take(items)

    @property
    def _labels_are_classes(self) -> bool:
        """Whether every label is a class, of which each split should have items; rows of a table are none."""
        return self.targets is None or self.targets.values is None
