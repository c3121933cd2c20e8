"""Which items of several datasets are the same file, without a Python object for each of a million."""

from array import array
from collections.abc import Iterable

import numpy as np


def list_distinct(groups: Iterable[Iterable[tuple[int, str]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return group and item of every name in its first place, in order.

    Args:
        groups: of each group its items with their names.
    """
    numbers, items, hashes = array("q"), array("q"), array("q")
    for number, group in enumerate(groups):
        for item, name in group:
            numbers.append(number)
            items.append(item)
            hashes.append(hash(name))  # of a million names, two share one with a chance of 1 in 25 million
    first = np.sort(np.unique(np.array(hashes, dtype=np.int64), return_index=True)[1])
    return np.array(numbers, dtype=np.int64)[first], np.array(items, dtype=np.int64)[first]
