"""What the texts of a list stand for where they are not classes: sets of labels, grades in an order, numbers."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vision_peft.data.annotations.list_files import MAX_CLASSES, MAX_NAME, is_integer
from vision_peft.data.annotations.list_lines import TARGET_END, ListLines
from vision_peft.data.problems import quote
from vision_peft.data.targets import Targets
from vision_peft.suggest import Suggestions

MAX_GRADES = 1000
MAX_TABLE = 2**28  # numbers in a table of targets; as whole numbers of one byte or floats of eight
POINT = "decimals take a point (0.5)"
_COMMA = re.compile(r"[+-]?[0-9]{1,15},[0-9]{1,15}")
_SEPARATOR = re.compile("[;|]")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
_LONGEST_NUMBER = 60
_NO_NUMBER = "wanted a number, got an empty cell"


def find_task_kind(train: ListLines, names: Sequence[str]) -> str:
    """Find what kind of task a list is of, as far as its labels can tell: classes where they say nothing else.

    Cells such as `a;b`, lists of words and columns of 0 and 1 are sets of labels; numbers most of which can be read,
    one with a fraction, are to be estimated, and so are several columns of other numbers than 0 and 1. Whole numbers
    are classes: they may be grades or amounts as well.
    """
    if train.columns:  # of several, which are no classes
        cells = [cell for text in train.texts for cell in _split_joined(text)]
        return "multilabel" if 2 * sum(cell in ("0", "1") for cell in cells) > len(cells) else "regression"
    texts = [text for text in train.texts if text]
    if texts and set(texts) <= set(names):
        return "classes"
    cells = [cell for text in texts for cell in _split_joined(text)]
    numbers = [cell for cell in cells if is_number(cell)]
    if 2 * len(numbers) > len(cells) and any(not float(cell).is_integer() for cell in numbers):
        return "regression"
    several = any(text.endswith(TARGET_END) or _SEPARATOR.search(text) for text in texts)
    return "multilabel" if several else "classes"


def find_commas(train: ListLines) -> str:
    """Return the first label that is a number with a comma, where most labels are numbers, written so or plainly."""
    texts = [text for text in train.texts if text]
    commas = [text for text in texts if _COMMA.fullmatch(text)]
    numbers = len(commas) + sum(map(is_number, texts))
    return quote(commas[0]) if commas and 2 * numbers > len(texts) else ""


def is_number(text: str) -> bool:
    """Whether a text is a number as data has them: no NaN, no infinity, no underscores."""
    return len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


class TargetTexts(ABC):
    """Labels of texts: `find` numbers what a text stands for, or says what is wrong with it."""

    classes: list[str]

    def __init__(self) -> None:
        self._rows: dict[tuple[float, ...], int] = {}

    def find(self, text: str) -> int | str:
        """Return the label of a text, the number of its row in the table, or a message."""
        row = self.read(text)
        return row if isinstance(row, str) else self._rows.setdefault(row, len(self._rows))

    @abstractmethod
    def read(self, text: str) -> tuple[float, ...] | str:
        """Return what a text stands for, or a message."""

    @abstractmethod
    def table(self) -> Targets:
        """Return what the labels that were found stand for."""


class LabelSets(TargetTexts):
    """Sets of classes: `a;b` or `a|b`, nothing for none of them, or a column of 0 and 1 for each."""

    def __init__(self, train: ListLines, names: Sequence[str], source: Path) -> None:
        super().__init__()
        self.flags, self.source = bool(train.columns), source
        found = {name for text in train.texts for name in _split_labels(text)} if not self.flags else set()
        in_order = sorted(found, key=int) if all(map(is_integer, found)) else sorted(found)
        self.classes = list(names or train.columns or in_order)
        self._place = {name: place for place, name in enumerate(self.classes)}
        self._suggest = Suggestions(self.classes)
        self._numbers_are_places = bool(names) and not any(map(is_integer, names))

    def read(self, text: str) -> tuple[float, ...] | str:
        if self.flags:
            cells = _split_joined(text)
            if len(cells) != len(self.classes):
                return f"wanted {len(self.classes)} columns of 0 and 1, got {len(cells)}"
            wrong = [place for place, cell in enumerate(cells) if cell not in ("0", "1")]
            if wrong:
                return f"column {quote(self.classes[wrong[0]])}: wanted 0 or 1, got {quote(cells[wrong[0]])}"
            return tuple(place for place, cell in enumerate(cells) if cell == "1")
        places = set()
        for name in _split_labels(text):
            place = self._find_place(name)
            if isinstance(place, str):
                return place
            places.add(place)
        return tuple(sorted(places))

    def table(self) -> Targets:
        check_table(len(self._rows), len(self.classes))
        values = np.zeros((max(len(self._rows), 1), len(self.classes)), dtype=np.uint8)
        for places, label in self._rows.items():
            values[label, [int(place) for place in places]] = 1
        return Targets("multilabel", values)

    def _find_place(self, name: str) -> int | str:
        if name in self._place:
            return self._place[name]
        if len(name) > MAX_NAME:
            return f"class {quote(name)} has {len(name):,} letters, wanted at most {MAX_NAME:,}"
        if self._numbers_are_places and is_integer(name):
            if 0 <= int(name) < len(self.classes):
                return int(name)
            return f"label {int(name)} is out of range: wanted 0 to {len(self.classes) - 1}"
        return f"class {quote(name)} is not among the {len(self.classes)} classes of {self.source}{self._suggest(name)}"


class Grades(TargetTexts):
    """Grades in an order: whole numbers, from the smallest to the largest of train and val, or names of a file."""

    def __init__(self, lists: Mapping[str, ListLines], names: Sequence[str], problems: list[str], source: Path) -> None:
        super().__init__()
        trained = [text for part in ("train", "val") if part in lists for text in lists[part].texts]
        numbers = sorted({int(text) for text in trained if is_integer(text)})
        words = [text for text in trained if text and not is_number(text)]
        if not names and words:
            few = ", ".join(map(quote, dict.fromkeys(words[:3])))
            problems.append(f"{source}: grades are whole numbers, or data.classes=FILE names them in order: got {few}")
        self.first = 0 if names or not numbers else numbers[0]
        last = min(numbers[-1], self.first + MAX_GRADES) if numbers else 0
        self.classes = list(names) or [str(grade) for grade in range(self.first, last + 1)]
        self._place = {name: place for place, name in enumerate(self.classes)}

    def find(self, text: str) -> int | str:
        if text in self._place:
            return self._place[text]
        grades = f"{quote(self.classes[0])} to {quote(self.classes[-1])}"
        if not is_integer(text):
            return f"grade {quote(text)} is not a whole number of {grades}"
        place = int(text) - self.first
        if not 0 <= place < len(self.classes):
            return f"grade {int(text)} is out of range: wanted one of {grades}"
        return place

    def read(self, text: str) -> tuple[float, ...] | str:
        found = self.find(text)
        return found if isinstance(found, str) else (found,)

    def table(self) -> Targets:
        return Targets("ordinal")


class AnyClasses(TargetTexts):
    """Classes of all lists together, so that val and test may have others than train: names, or numbers as names."""

    def __init__(self, lists: Mapping[str, ListLines], names: Sequence[str], source: Path) -> None:
        super().__init__()
        found = {text for lines in lists.values() for text in lines.texts if text and len(text) <= MAX_NAME}
        self.classes = list(names) or (sorted(found, key=int) if all(map(is_integer, found)) else sorted(found))
        self.source, self._place = source, {name: place for place, name in enumerate(self.classes)}
        self._suggest = Suggestions(self.classes)

    def find(self, text: str) -> int | str:
        if text in self._place:
            return self._place[text]
        if len(text) > MAX_NAME:
            return f"class {quote(text)} has {len(text):,} letters, wanted at most {MAX_NAME:,}"
        return f"class {quote(text)} is not among the {len(self.classes)} classes of {self.source}{self._suggest(text)}"

    def read(self, text: str) -> tuple[float, ...] | str:
        found = self.find(text)
        return found if isinstance(found, str) else (found,)

    def table(self) -> Targets:
        return Targets("embedding")


class Numbers(TargetTexts):
    """Numbers to estimate, one or several an image, in the unit that the data has them in."""

    def __init__(self, train: ListLines, target: Sequence[str], unit: str) -> None:
        super().__init__()
        self.unit = unit
        sizes = [len(_split_joined(text)) for text in train.texts[:1]] or [1]
        self.size = len(train.columns) or sizes[0]
        alone = list(target) if len(target) == 1 == self.size else ["value"]
        self.classes = list(train.columns) or (alone if self.size == 1 else [f"value_{i}" for i in range(self.size)])

    def read(self, text: str) -> tuple[float, ...] | str:
        cells = _split_joined(text)
        if len(cells) == 1 and self.size > 1:
            cells = [cell.strip() for cell in _SEPARATOR.split(text)]
        if len(cells) != self.size:
            return f"wanted {self.size} number{'s' * (self.size > 1)}, got {quote(text.replace(TARGET_END, ' '))}"
        wrong = [cell for cell in cells if not is_number(cell)]
        if wrong:
            hint = f"; {POINT}" if _COMMA.fullmatch(wrong[0]) else ""
            return f"wanted a finite number, got {quote(wrong[0])}{hint}" if wrong[0] else _NO_NUMBER
        return tuple(map(float, cells))

    def table(self) -> Targets:
        check_table(len(self._rows), 8 * self.size)
        values = np.array([*self._rows] or [(0.0,) * self.size], dtype=np.float64)
        return Targets("regression", values, self.unit)


def check_table(rows: int, bytes_each: int) -> None:
    """Raise ValueError where a table of targets would take more memory than data should."""
    if rows * bytes_each > MAX_TABLE:
        raise ValueError(
            f"{rows:,} different targets of {bytes_each:,} bytes each take more than {MAX_TABLE:,} bytes: give fewer "
            f"classes (at most {MAX_CLASSES:,})"
        )


def _split_joined(text: str) -> list[str]:
    return [cell.strip() for cell in text.split(TARGET_END)[:-1]] if text.endswith(TARGET_END) else [text]


def _split_labels(text: str) -> list[str]:
    if text.endswith(TARGET_END):
        return _split_joined(text)
    return [name for part in _SEPARATOR.split(text) if (name := part.strip())]
