"""Parts of a published list of images drawn class by class from a seed, where the data comes without a val split.

Such lists do not change, and recorded figures belong to these draws. Users' own data is drawn by `split_by_name.py`.
"""

from collections.abc import Sequence

import numpy as np


def check_fraction(field: str, value: float) -> None:
    """Raise ValueError unless `data.<field>` is between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"data.{field} must be between 0 and 1 (a share of the images), got {value}")


def draw(labels: Sequence[int], fractions: Sequence[float], seed: int) -> list[list[int]]:
    """Draw indices into `labels` as `[rest, *parts]`, each part with its fraction of every class, in rising order.

    A class of two or more keeps at least one in the rest and gives at least one to each part while it can.
    """
    state = np.random.RandomState(seed)  # its streams are frozen by NumPy's policy, so a split stays the same for ever
    of_class = np.asarray(labels)
    part_of = np.zeros(len(of_class), dtype=int)
    for label in np.unique(of_class):
        places = state.permutation(np.flatnonzero(of_class == label))
        start, total = 0, len(places)
        for part, fraction in enumerate(fractions, start=1):
            size = min(max(1, round(fraction * total)), total - 1 - start)
            part_of[places[start : start + size]] = part
            start += size
    return [np.flatnonzero(part_of == part).tolist() for part in range(len(fractions) + 1)]


def choose(split: str, labels: Sequence[int], val_fraction: float, seed: int) -> list[int]:
    """Choose the indices of `split` into the labels of its published half, of which there are only train and test.

    "trainval" and "test" are whole halves; "val" is drawn from train and "train" is what that leaves. Raises ValueError
    where nothing is left to be drawn.
    """
    if split in ("trainval", "test"):
        return list(range(len(labels)))
    train, val = draw(labels, (val_fraction,), seed)
    chosen = train if split == "train" else val
    if not chosen:
        raise ValueError(f"the split {split} is empty: every class has too few images to split")
    return chosen
