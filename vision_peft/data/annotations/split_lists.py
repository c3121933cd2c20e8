"""The list files of one data set, of train and, where they are given, val and test, read and checked together."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from vision_peft.data.annotations.list_files import (
    MAX_CLASSES,
    MAX_NAME,
    Entry,
    PathCheck,
    find_label_problem,
    is_integer,
    quote,
    read_class_names,
    read_entries,
    read_lines,
    warn_of_empty_classes,
)
from vision_peft.data.annotations.split_by_name import SplitByName
from vision_peft.data.item_names import name_below
from vision_peft.data.problems import raise_problems
from vision_peft.suggest import Suggestions, did_you_mean

HEADER = ("path", "label")
REPEATED = ": list it once; data.balanced=true trains on rare classes as often as on others"
Items = list[tuple[str, int]]


class SplitLists(NamedTuple):
    """What the fields of a family of lists say; `name` and `root` are for messages."""

    name: str
    root: Path
    train: str | None
    val: str | None
    test: str | None
    classes: str | None
    val_fraction: float
    seed: int

    def read(self, split: str, check: PathCheck) -> tuple[list[str], list[int], list[str]]:
        """Return full paths, labels and class names of `split`.

        One ValueError names every problem of all the lists, with file and line.
        """
        root, name = self.root, self.name
        if not self.train:
            raise ValueError(f"data={name} needs the list of the training {check.what}s: give data.train=FILE")
        if split == "test" and not self.test:
            raise FileNotFoundError(f"data={name} has no test {check.what}s: give data.test=FILE")
        given = {"train": self.train, "val": self.val, "test": self.test}
        files = {part: _file(root, part, text) for part, text in given.items() if text}
        problems: list[str] = []
        entries = {part: read_list_lines(file, problems) for part, file in files.items()}
        names_file = _file(root, "classes", self.classes) if self.classes else None
        names = read_class_names(names_file, problems) if names_file else []
        classes, find_label = _labels(entries, names, names_file or files["train"])
        parts = _check(root, files, entries, check, find_label, problems)
        raise_problems(f"data={name} data.root={root}", problems)

        draw = None if "val" in parts else self._draw_val(parts, files["train"], check)
        items = parts["train"] + parts["val"] if split == "trainval" else parts[split]
        labels = [label for _, label in items]
        if draw is not None:
            draw.check(split, classes)
        if split in ("train", "trainval"):
            warn_of_empty_classes(files["train"], classes, labels, check.what)
        return [path for path, _ in items], labels, classes

    def _draw_val(self, parts: dict[str, Items], file: Path, check: PathCheck) -> SplitByName:
        """Divide the items of the training list into train and val by the names of the files."""
        whole = parts["train"]
        names = [name_below(check.identity(path), str(self.root)) for path, _ in whole]
        draw = SplitByName(names, [label for _, label in whole], {"val": self.val_fraction}, self.seed, str(file))
        parts |= {name: [whole[item] for item in items] for name, items in draw.parts.items()}
        return draw


def _file(root: Path, field: str, text: str) -> Path:
    file = root / Path(text).expanduser()
    if file.is_file():
        return file
    siblings = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
    hint = did_you_mean(file.name, siblings, prefix=f"{file.parent}/")
    raise FileNotFoundError(f"data.{field}={text}: there is no file {file}{hint}")


def read_list_lines(file: Path, problems: list[str]) -> list[Entry]:
    """Read the lines of a list file, text or csv, unchanged; malformed lines are appended to `problems`."""
    return list(_read(file, problems))


def _read(file: Path, problems: list[str]) -> Iterator[Entry]:
    if file.suffix.lower() != ".csv":
        yield from read_entries(file, problems)
        return
    lines = read_lines(file, problems)
    if "," in next((line for line in lines if line.strip()), ""):
        yield from _read_csv(file, lines, problems)
    elif lines:
        yield from read_entries(file, problems)


def _read_csv(file: Path, lines: list[str], problems: list[str]) -> Iterator[Entry]:
    columns: tuple[int, int] | None = None
    wanted = 2
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], strict=True, skipinitialspace=True))]
        except csv.Error as error:
            problems.append(f"{file}:{number}: not a line of a csv file: {error}")
            continue
        if columns is None:
            header = [cell.lower() for cell in cells]
            columns = (0, 1)
            if set(HEADER) <= set(header):
                columns, wanted = (header.index("path"), header.index("label")), len(cells)
                continue
        path, label = (cells[place] if place < len(cells) else "" for place in columns)
        if len(cells) == wanted and path and label:
            yield Entry(number, path, label)
        else:
            hint = "; a header names the columns path and label" if wanted == 2 else ""
            problems.append(f"{file}:{number}: wanted {wanted} columns with path and label, got {quote(line)}{hint}")


def _labels(
    entries: Mapping[str, list[Entry]], names: list[str], source: Path
) -> tuple[list[str], Callable[[str], int | str]]:
    """Return the classes, and a function from the text of a class to its label, or to a message if there is none."""
    train = entries["train"]
    if train and is_integer(train[0].label):
        trained = [entry.label for part in ("train", "val") for entry in entries.get(part, [])]
        largest = max((int(label) for label in trained if not find_label_problem(label, MAX_CLASSES)), default=0)
        count = len(names) or largest + 1
        classes = names or [str(label) for label in range(count)]
        return classes, lambda label: find_label_problem(label, count) or int(label)

    classes = names or sorted({entry.label for entry in train})
    place = {name: label for label, name in enumerate(classes)}
    suggest = Suggestions(classes)

    def find(name: str) -> int | str:
        if len(name) > MAX_NAME:
            return f"class {quote(name)} has {len(name):,} letters, wanted at most {MAX_NAME:,}"
        if not names and is_integer(name):
            return f"label {quote(name)} is a number among class names; data.classes=FILE makes it a name"
        if name in place:
            return place[name]
        return f"class {quote(name)} is not among the {len(classes)} classes of {source}{suggest(name)}"

    return classes, find


def _check(
    root: Path,
    files: Mapping[str, Path],
    entries: Mapping[str, list[Entry]],
    images: PathCheck,
    find_label: Callable[[str], int | str],
    problems: list[str],
) -> dict[str, Items]:
    """Return full paths and labels of every list; append wrong lines and images listed twice to `problems`."""
    first: dict[str, tuple[str, int]] = {}
    parts: dict[str, Items] = {}
    for part, file in files.items():
        parts[part] = []
        for line, path, text in entries[part]:
            label, trouble = find_label(text), images.find_problem(path)
            found = [problem for problem in (label, trouble) if isinstance(problem, str)]
            full = os.path.join(root, path)  # noqa: PTH118  pathlib makes this loop slower
            key = images.identity(full)
            if not trouble and first.setdefault(key, (part, line)) != (part, line):
                other, where = first[key]
                already = f"is already on line {where}" if other == part else f"is also in {files[other]}:{where}"
                way_out = REPEATED * (other == part == "train")
                found.append(f"{images.what} {quote(path)} {already}{way_out}")
            problems.extend(f"{file}:{line}: {problem}" for problem in found)
            if not found and isinstance(label, int):
                parts[part].append((full, label))
        if not entries[part] and not any(problem.startswith(f"{file}:") for problem in problems):
            problems.append(f"{file}: no line below the header")
    return parts
