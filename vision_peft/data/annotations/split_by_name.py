"""Parts of users' own data drawn by the names of the items, so that no file decides where another one belongs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from vision_peft.printable import warn

_SEEDS_TRIED, _PLACES_TRIED = 1000, 10**6
_NAMED = 5  # classes that a message names


@dataclass(frozen=True)
class SplitByName:
    """Items divided into train and drawn parts.

    An item's name and `seed` alone give it a number from 0 to 1, and this number its part: adding, removing or renaming
    an item moves no other. There is one exception: a class none of whose items fell to train keeps there the one with
    the largest number, until another falls there.
    """

    names: Sequence[str]  # of the items, each once; see `name_below`
    labels: Sequence[int]
    shares: Mapping[str, float]  # of the items that each drawn part gets; train is what they leave
    seed: int
    where: str  # the data, for messages

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Indices into `names`, in rising order, of train and every drawn part."""
        places = list_places(self.names, self.seed)
        part_of = np.searchsorted(np.cumsum([*self.shares.values()]), places, side="right")
        of_item, train = np.asarray(self.labels, dtype=int), len(self.shares)
        lost = np.flatnonzero(~np.isin(of_item, of_item[part_of == train]))
        lost = lost[np.lexsort((places[lost], of_item[lost]))]  # class by class, in each the largest number last
        part_of[lost[np.diff(of_item[lost], append=-1) != 0]] = train
        return {name: np.flatnonzero(part_of == number) for number, name in enumerate([*self.shares, "train"])}

    def check(self, split: str, classes: Sequence[str]) -> None:
        """Warn of the classes of which a drawn `split` has no item: names know nothing of classes.

        Raises:
            ValueError: it has no item at all; the message gives a seed that fills all parts where one is found.
        """
        if split not in self.shares:
            return
        items = self.parts[split]
        if not len(items):
            raise ValueError(
                f"{self.where}: the split {split} is empty: it is drawn by name, and none of the {len(self.names)} "
                f"names fell to it; {self._advise(split)}"
            )
        present = np.isin(np.arange(len(classes)), np.asarray(self.labels)[items])
        missing = [name for name, there in zip(classes, present.tolist(), strict=True) if not there]
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            warn(
                f"{self.where}: {split} is drawn by name and got nothing of {len(missing)} of {len(classes)} classes "
                f"({', '.join(missing[:_NAMED])}{more}): another data.seed draws another one, or give a {split} split",
                stacklevel=3,
            )

    def fills_all(self) -> bool:
        """Whether every part has an item."""
        return all(map(len, self.parts.values()))

    def _advise(self, split: str) -> str:
        """Say how the split gets items."""
        tries = min(_SEEDS_TRIED, _PLACES_TRIED // max(len(self.names), 1))
        filling = (seed for seed in range(tries) if replace(self, seed=seed).fills_all())
        seed = next(filling, None)
        return f"give a {split} split" + ("" if seed is None else f", or data.seed={seed}")


def list_places(names: Iterable[str], seed: int) -> np.ndarray:
    """Return the number of each item, at least 0 and below 1."""
    start, digests = f"{seed}/".encode(), bytearray()
    for name in names:
        digests += hashlib.sha256(start + name.encode(errors="surrogatepass")).digest()[:8]
    return (np.frombuffer(digests, ">u8") >> 11) / 2**53


def place(name: str, seed: int) -> float:
    """Return the number of one item."""
    return float(list_places([name], seed)[0])
