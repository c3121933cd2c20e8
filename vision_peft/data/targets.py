"""What the labels of a dataset stand for, where each is not simply the number of a class."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be answered, by the label of an item: label i stands for `values[i]`.

    A label stays one whole number for each item wherever data is read, kept and shuffled. Splits of a dataset share
    one table.
    """

    kind: str  # of task, a file in `vision_peft/tasks/`
    values: np.ndarray | None = None  # K ... of whole numbers or floats, each row once; None: labels are the targets
    unit: str = ""  # of numbers

    def __post_init__(self) -> None:
        if self.values is not None and not len(self.values):
            raise ValueError("a table of targets needs at least one row")

    def digest(self, label: int) -> int:
        """Return a whole number that tells what `label` stands for from everything else, whatever the table."""
        if self.values is None:
            return label
        row = np.ascontiguousarray(self.values[label], dtype=np.float64)
        return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=7).digest(), "little")


def same_targets(one: Targets | None, other: Targets | None) -> bool:
    """Whether labels stand for the same in two splits."""
    if one is None or other is None:
        return one is other
    return one is other or ((one.kind, one.unit) == (other.kind, other.unit) and _same_values(one.values, other.values))


def _same_values(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=True))
