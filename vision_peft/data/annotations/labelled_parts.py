"""Data that comes in parts with a label for each item, numbers or names: its classes, and the splits that are drawn."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vision_peft.data.annotations.list_files import MAX_CLASSES, MAX_NAME, quote
from vision_peft.data.annotations.split_by_name import SplitByName
from vision_peft.data.config import check_split
from vision_peft.data.problems import DataProblems

Value = int | str | None  # of a label; None: there is none
_SHOWN = 3  # items that a message names
NO_TEST = "there is no test split: give one, or give only train and have val and test drawn from it"


@dataclass(frozen=True)
class LabelledParts:
    """Parts of a dataset as it comes: at least train.

    Without test and val both are drawn from train, without val alone val is, by the names of the items (`SplitByName`).
    """

    names: Mapping[str, Sequence[str]]  # of the items of each part; an item keeps its name where others come or go
    labels: Mapping[str, Sequence[int]]
    val_fraction: float
    test_fraction: float
    seed: int
    where: str  # the data, for messages

    def find(self, split: str, classes: Sequence[str]) -> list[tuple[str, list[int]]]:
        """Return the parts that hold `split` and the indices of its items there: of "trainval" two, else one.

        Raises:
            FileNotFoundError: there is no test split, nor is one drawn.
            ValueError: what is drawn is empty, or `split` is not one of the four.
        """
        check_split(split)
        return [self._find(half, classes) for half in (("train", "val") if split == "trainval" else (split,))]

    def _find(self, split: str, classes: Sequence[str]) -> tuple[str, list[int]]:
        if split in self.names and (split != "train" or not self._shares):
            return split, [*range(len(self.names[split]))]
        if split == "test" and "test" not in self._shares:
            raise FileNotFoundError(f"{self.where}: {NO_TEST}")
        self._drawn.check(split, classes)
        return "train", np.asarray(self._drawn.parts[split], dtype=int).tolist()

    @functools.cached_property
    def _shares(self) -> dict[str, float]:
        """What of train is drawn for each split that is not there."""
        shares = {"val": self.val_fraction} if "val" not in self.names else {}
        return {"test": self.test_fraction, **shares} if [*self.names] == ["train"] else shares

    @functools.cached_property
    def _drawn(self) -> SplitByName:
        return SplitByName(self.names["train"], self.labels["train"], self._shares, self.seed, self.where)


def find_classes(
    values: Mapping[str, Sequence[Value]], names: Mapping[str, Sequence[str]], given: Sequence[str], where: str
) -> tuple[list[str], dict[str, list[int]]]:
    """Return the classes and, for each part, the label of each item.

    Numbers are labels from 0 on, as many classes as there are `given` names, else up to the largest of train and val.
    Text is the name of a class: one of `given`, else of those of train in the order of `sorted`.

    Raises:
        DataProblems: all labels that are missing, of another kind or out of range, with the names of the items.
    """
    first = next((value for value in values["train"] if value is not None), None)
    numbers = isinstance(first, int)
    kind = int if numbers else str
    known = [value for part in ("train", "val") for value in values.get(part, ()) if isinstance(value, kind)]
    if numbers:
        largest = max((value for value in known if isinstance(value, int) and value < MAX_CLASSES), default=-1)
        classes = [*given] or [str(label) for label in range(largest + 1)]
        label_of: dict[Value, int] = {label: label for label in range(len(classes))}
    else:
        trained = {value for value in values["train"] if isinstance(value, str) and len(value) <= MAX_NAME}
        classes = [*given] or sorted(trained)
        label_of = {name: label for label, name in enumerate(classes)}
    problems: list[str] = []
    labels = {part: [label_of.get(value, -1) for value in found] for part, found in values.items()}
    for part, found in labels.items():
        wrong: dict[Value, list[str]] = {}
        for item in (item for item, label in enumerate(found) if label < 0):
            wrong.setdefault(values[part][item], []).append(names[part][item])
        for value, items in wrong.items():
            shown = ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
            problems.append(f"{_describe(value, classes, numbers)}: {part}, {shown}")
    if problems:
        text = f"{where}: labels outside the {len(classes)} classes"
        raise DataProblems("\n".join([text, *(f"  {problem}" for problem in problems[:20])]), problems)
    return classes, labels


def _describe(value: Value, classes: Sequence[str], numbers: bool) -> str:
    """Say what is wrong with a label."""
    if value is None:
        return "no label"
    if numbers and value == -1:
        return "label -1, which means that there is no label"
    if isinstance(value, int) != numbers:
        kinds = ("names", "numbers")
        return f"label {quote(str(value))} is not like the others, which are {kinds[numbers]}"
    wanted = f"0 to {len(classes) - 1}" if numbers else "a name that train has"
    return f"label {quote(str(value))}, wanted {wanted}"
