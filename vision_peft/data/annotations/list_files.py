"""Reader of list files, `<path below the root> <label>` a line, that trusts nothing in them."""

import itertools
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vision_peft.safe_files import read_file

MAX_CLASSES = 100_000
MAX_LIST = 2**30  # bytes
MAX_NAME = 1000  # letters of a class
_LINE = re.compile(r"(?P<path>.+?)\s+(?P<label>\S+)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


class Entry(NamedTuple):
    """One line of a list file, as written."""

    line: int  # from 1
    path: str
    label: str


def read_list(
    file: Path,
    root: Path,
    problems: list[str],
    num_classes: int | None = None,
    check_images: bool = True,
    check: "PathCheck | None" = None,
) -> list[tuple[Path, int]]:
    """Read images and labels of a list file; paths may hold spaces, blank lines are skipped.

    Every problem is appended to `problems` with file and line: a malformed line, a label that is not an integer or not
    below `num_classes`, an image that is missing, absolute, outside `root` (through `..` or a link) or already on an
    earlier line, an empty file. Raises FileNotFoundError where there is no such list file.
    """
    images = PathCheck(root) if check is None else check
    first: dict[str, Entry] = {}
    items: list[tuple[Path, int]] = []
    for entry in read_entries(file, problems):
        number, path, label = entry
        found = [
            find_label_problem(label, num_classes or MAX_CLASSES),
            images.find_problem(path) if check_images else None,
        ]
        if found == [None, None]:
            found = [find_repeat(entry, first, images.what)]
        if found == [None]:
            items.append((root / path, int(label)))
        problems.extend(f"{file}:{number}: {text}" for text in found if text)
    return items


def read_entries(file: Path, problems: list[str]) -> Iterator[Entry]:
    """Read the lines `<path> <label>` of a text file, but blank ones; malformed lines are appended to `problems`."""
    for number, line in enumerate(read_lines(file, problems), start=1):
        parts = _LINE.fullmatch(line.strip())
        if parts:
            yield Entry(number, parts["path"], parts["label"])
        elif line.strip():
            problems.append(f"{file}:{number}: wanted '<path> <label>', got {quote(line.strip())}")


def find_repeat(entry: Entry, first: dict[str, Entry], what: str = "image") -> str | None:
    """Describe an entry whose path, however spelt, an earlier one had; `first` holds those seen so far."""
    earlier = first.setdefault(os.path.normpath(entry.path), entry)
    if earlier is entry:
        return None
    label = "" if earlier.label == entry.label else f" with label {earlier.label}"
    return f"{what} {quote(entry.path)} is already on line {earlier.line}{label}"


def find_overlaps(lists: Mapping[str, Path], inside: Collection[tuple[str, str]], problems: list[str]) -> None:
    """Append to `problems` every image that two splits share, by path, with both files and lines.

    A pair in `inside`, (part, whole), is meant to share images; those must then have the same label. Lists that are not
    there and lines that make no sense are left to `read_list`.
    """
    entries = {split: _index_by_path(file) for split, file in lists.items() if file.is_file()}
    for one, other in itertools.combinations(entries, 2):
        may_share = (one, other) in inside or (other, one) in inside
        for path, there in entries[other].items():
            if (here := entries[one].get(path)) is None:
                continue
            place = f"{lists[other]}:{there.line}: image {quote(there.path)}"
            if not may_share:
                problems.append(f"{place} is also in {lists[one].name}:{here.line}: {one} and {other} overlap")
            elif int(here.label) != int(there.label):
                problems.append(
                    f"{place} has label {there.label}, in {lists[one].name}:{here.line} it has {here.label}"
                )


def _index_by_path(file: Path) -> dict[str, Entry]:
    first: dict[str, Entry] = {}
    for entry in read_entries(file, []):
        if is_integer(entry.label):
            first.setdefault(os.path.normpath(entry.path), entry)
    return first


def is_integer(label: str) -> bool:
    """Whether `label` is an integer of at most 18 digits."""
    return _INTEGER.fullmatch(label) is not None


def find_label_problem(label: str, num_classes: int) -> str | None:
    """Describe what is wrong with the text of an integer label that must be below `num_classes`."""
    if not is_integer(label):
        return f"label {quote(label)} is not an integer"
    if not 0 <= int(label) < num_classes:
        return f"label {int(label)} is out of range: wanted 0 to {num_classes - 1}"
    return None


def read_lines(file: Path, problems: list[str]) -> list[str]:
    """Read the lines of a text file, none of an empty one or one that is not UTF-8, which `problems` then has."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        text = read_file(file, MAX_LIST).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").rstrip()
    except UnicodeDecodeError as error:
        problems.append(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})")
        return []
    if not text:
        problems.append(f"{file}: the file is empty")
    return text.split("\n") if text else []


def read_class_names(file: Path, problems: list[str]) -> list[str]:
    """Read class names in label order, one a line; an empty or repeated name is appended to `problems`."""
    names = [line.strip() for line in read_lines(file, problems)]
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            problems.append(f"{file}:{number}: empty class name")
        elif len(name) > MAX_NAME:
            problems.append(f"{file}:{number}: a class name of {len(name):,} letters, wanted at most {MAX_NAME:,}")
        elif first.setdefault(name, number) != number:
            problems.append(f"{file}:{number}: class name {name!r} is already on line {first[name]}")
    return names


def warn_of_empty_classes(file: Path, classes: Sequence[str], labels: Sequence[int], what: str = "image") -> None:
    """Warn of the classes that no training label names; `file` is the training list."""
    present = set(labels)
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        listed = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if len(empty) > 10 else "")
        warnings.warn(f"{file}: {len(empty)} of {len(classes)} classes have no training {what}: {listed}", stacklevel=3)


def quote(text: str) -> str:
    """Quote `text` for a message, without its middle where it is long."""
    return repr(text if len(text) <= 120 else f"{text[:100]}...{text[-15:]}")


class PathCheck:
    """Checks that images exist below `root`, resolving a folder once: lists name thousands of files in few folders.

    With `confined=False` they may be anywhere; `hint` is added where a path leads out of `root`.
    """

    what = "image"  # for messages

    def __init__(self, root: Path, confined: bool = True, hint: str = "") -> None:
        self.root = root
        self.confined = confined
        self.hint = hint
        self.real_root = os.path.realpath(root)
        self.inside: dict[str, bool] = {}

    def find_problem(self, path: str) -> str | None:
        """Describe what is wrong with `path`; None if it is an image file where it may be."""
        if self.confined and os.path.isabs(path):  # noqa: PTH117
            return f"path {quote(path)} is absolute: wanted a path below {self.root}{self.hint}"
        full = os.path.join(self.root, path)  # noqa: PTH118  pathlib makes this loop three times slower
        try:
            if self.confined and not self.is_inside(full):
                return f"path {quote(path)} leads out of {self.root}{self.hint}"
            return self.find_absence(full, path)
        except (OSError, ValueError) as error:
            return f"path {quote(path)} cannot be read: {type(error).__name__}"

    def find_absence(self, full: str, path: str) -> str | None:
        """Describe a path that may be where it is but has no file, by its full path and as it is listed."""
        return None if os.path.isfile(full) else f"{self.what} {quote(path)} is missing"  # noqa: PTH113

    def identity(self, full: str) -> str:
        """Return what two spellings of one item have in common."""
        return os.path.normpath(full)

    def is_inside(self, full: str) -> bool:
        """Whether a path stays below the root, links followed."""
        folder = os.path.dirname(full)  # noqa: PTH120
        if folder not in self.inside:
            self.inside[folder] = self.is_below(os.path.realpath(folder))
        return self.inside[folder] and (not os.path.islink(full) or self.is_below(os.path.realpath(full)))  # noqa: PTH114

    def is_below(self, real: str) -> bool:
        """Whether a resolved path is the resolved root or below it."""
        return real == self.real_root or real.startswith(self.real_root + os.sep)
