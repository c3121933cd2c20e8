"""Reader of list files, `<path below the root> <label>` a line, that trusts nothing in them."""

import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.item_names import to_nfc
from vision_peft.data.problems import quote
from vision_peft.printable import warn
from vision_peft.safe_files import read_file

MAX_CLASSES = 100_000
MAX_LIST = 2**30  # bytes
MAX_NAME = 1000  # letters of a class
_AT_ONCE = 2**18  # letters of a list that are divided into lines at a time
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
    check: PathCheck | None = None,
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
    text = _read_text(file, problems).rstrip()
    return text.split("\n") if text else []


def iterate_lines(file: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank with their numbers, as `read_lines` finds them."""
    text, start, number = _read_text(file, problems), 0, 0
    while start < len(text):
        end = text.find("\n", start + _AT_ONCE)
        end = len(text) if end < 0 else end
        for line in text[start:end].split("\n"):
            number += 1
            if line and not line.isspace():
                yield number, line
        start = end + 1


def _read_text(file: Path, problems: list[str]) -> str:
    """Read a text file, whatever ends its lines; "" where it is empty or not UTF-8, which `problems` then has."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        text = read_file(file, MAX_LIST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})")
        return ""
    if not text or text.isspace():
        problems.append(f"{file}: the file is empty")
        return ""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_class_names(file: Path, problems: list[str]) -> list[str]:
    """Read class names in label order, one a line, in NFC; an empty or repeated name is appended to `problems`."""
    names = [to_nfc(line.strip()) for line in read_lines(file, problems)]
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
    present = np.isin(np.arange(len(classes)), np.asarray(labels)).tolist()
    empty = [name for name, there in zip(classes, present, strict=True) if not there]
    if empty:
        listed = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if len(empty) > 10 else "")
        warn(f"{file}: {len(empty)} of {len(classes)} classes have no training {what}: {listed}", stacklevel=3)
