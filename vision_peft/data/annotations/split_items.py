"""All items of a data set of users' own, read once, and which of them each split has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vision_peft.data.annotations.split_by_name import SplitByName
from vision_peft.data.flat_arrays import IntArray, TextArray


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

    def draw_parts(self, divided: str, shares: Mapping[str, float], seed: int, where: str) -> None:
        """Divide the part `divided` into train and the parts `shares`, by the names of its items.

        Args:
            where: the data, for messages.
        """
        whole = np.asarray(self.parts.pop(divided), dtype=np.int64)
        self.draw = SplitByName(self.names.take(whole), self.labels.take(whole), shares, seed, where)
        self.parts |= {name: whole[items] for name, items in self.draw.parts.items()}

    def take(self, split: str) -> tuple[TextArray, IntArray]:
        """Return paths and labels of a split; trainval is train with val behind it.

        Warns of classes that a drawn split has nothing of; ValueError where it has nothing at all.
        """
        joined = split == "trainval"
        items = np.concatenate([self.parts["train"], self.parts["val"]]) if joined else self.parts[split]
        if self.draw is not None:
            self.draw.check(split, self.classes)
        return self.paths.take(items), self.labels.take(items)
