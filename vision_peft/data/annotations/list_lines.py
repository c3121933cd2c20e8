"""Read the lines of a user's own list file, path and label: text, or cells between commas, semicolons or tabs.

Text is `path label`, the label being what follows the last space. A file is of cells if it is called `.tsv` and its
first line holds a tab, or if that line holds a comma or a semicolon and either the file is called `.csv` or there is no
space in it. A first line of known words, such as `filename,class`, is a header. What an image is labelled with may also
stand in several columns that a header names, of 0 and 1 or of numbers: their cells are one text, `TARGET_END` behind
each.
"""

import csv
import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision_peft.data.annotations.list_files import iterate_lines
from vision_peft.data.annotations.split_names import SPLIT_WORDS
from vision_peft.data.flat_arrays import IntArray, TextArray, TextBuilder
from vision_peft.data.item_names import to_nfc
from vision_peft.data.problems import quote
from vision_peft.suggest import did_you_mean

# words of a header; of several columns the first of these is meant
_FILES = ("path", "file", "filename", "file_name", "filepath", "file_path", "paths", "files", "filenames")
_PICTURES = ("image", "image_path", "imagepath", "image_name", "image_file", "img", "img_path", "img_name", "images")
_CLIPS = ("video", "video_path", "video_name", "video_file", "clip", "clip_path", "videos")
PATH_WORDS = (*_FILES, *_PICTURES, *_CLIPS)
LABEL_WORDS = (
    *("label", "class", "class_name", "classname", "category", "category_name", "label_name", "target"),
    *("labels", "classes", "categories", "targets", "class_id", "classid", "label_id", "category_id", "y"),
    *("value", "values", "grade", "score"),
)
_NAMED = 12  # columns in a message
_MOST_PARTS = 100  # different cells of a column of splits, behind which it is none
TARGET_END = "\x1f"  # behind each of several labels or numbers in one text; the unit separator of ASCII


@dataclass(frozen=True)
class ListLines:
    """What a list file says: `paths[i]` is of the class `texts[labels[i]]`, on line `lines[i]` (from 1)."""

    paths: TextArray
    labels: IntArray
    lines: IntArray
    texts: list[str]  # of the labels, in NFC, each once
    respelt: list[str]  # those that stood there in several spellings of Unicode
    columns: tuple[str, ...] = ()  # names of the columns, where several were read for one label
    parts: Mapping[str, int] = field(default_factory=dict[str, int])  # lines by what stands in a column of splits

    def without_first(self) -> "ListLines":
        """Return the same without the first line; a text that is no label any more is gone."""
        used = np.unique(self.labels.values[1:])
        labels = IntArray(np.searchsorted(used, self.labels.values[1:]))
        texts = [self.texts[place] for place in used]
        return replace(self, paths=self.paths[1:], labels=labels, lines=self.lines[1:], texts=texts, columns=())

    @property
    def has_empty(self) -> bool:
        """Whether a line says nothing of its image, which only a set of labels may."""
        return "" in self.texts


class ListForm(NamedTuple):
    """What is to be read of a list; without it the first known word of a header, or the second cell of a line."""

    target: tuple[str, ...] = ()  # names of the columns; () those that are known
    empty: bool = False  # a cell may be empty
    flags: bool | None = False  # all columns but the path are flags: True; None: where the first line has but 0 and 1


KNOWN_COLUMNS = ListForm()


class _Columns(NamedTuple):
    path: int = 0
    labels: tuple[int, ...] = (1,)
    count: int = 2
    names: tuple[str, ...] = ()
    part: int | None = None  # where a split is named


def read_list_lines(file: Path, problems: list[str], form: ListForm = KNOWN_COLUMNS) -> ListLines:
    """Read the lines of a list file, unchecked; malformed ones are appended to `problems`."""
    columns, parts = list[_Columns](), Counter[str]()
    lines = _read(file, problems, form, columns, parts)
    return build_lines(lines, parts, lambda: columns[0].names if columns else ())


def build_lines(
    read: Iterable[tuple[int, str, str]], parts: Mapping[str, int], columns: Callable[[], tuple[str, ...]] = tuple
) -> ListLines:
    """Put lines together, each with its number, path and label; `columns` are asked for when all are read."""
    paths, labels, lines = TextBuilder(), array("q"), array("q")
    number_of: dict[str, int] = {}  # of the text of a label
    first_of: dict[str, str] = {}  # label in NFC -> as it is written first
    respelt: dict[str, None] = {}
    for line, path, label in read:
        number = number_of.get(label)
        if number is None:
            name = to_nfc(label)
            if first_of.setdefault(name, label) != label:
                respelt[name] = None
            number = number_of[label] = number_of.get(first_of[name], len(first_of) - 1)
        paths.add(path)
        labels.append(number)
        lines.append(line)
    numbers, places = (IntArray(np.array(column, dtype=np.int64)) for column in (labels, lines))
    return ListLines(paths.build(), numbers, places, [*first_of], [*respelt], columns(), parts)


def _read(
    file: Path, problems: list[str], form: ListForm, found: list[_Columns], parts: Counter[str]
) -> Iterator[tuple[int, str, str]]:
    """Yield number, path and label of every line that has both, below a header.

    Args:
        found: gets the columns.
        parts: counts the lines by what they have in a column of splits.
    """
    lines = iterate_lines(file, problems)
    number, text = next(lines, (0, ""))
    if not number:
        return
    delimiter = _find_delimiter(file, text)
    second = next(lines, None)
    lines = lines if second is None else itertools.chain([second], lines)
    columns = _find_columns(text, second[1] if second else "", delimiter, form)
    if isinstance(columns, str):
        problems.append(f"{file}:{number}: {columns}")
        return
    if columns is None:
        columns, lines = _Columns(), itertools.chain([(number, text)], lines)
    found.append(columns)
    path_column, (label_column, *others), count, _, part = columns
    for number, text in lines:
        try:
            cells = _split(text, delimiter) if delimiter else text.strip().rsplit(None, 1)
        except csv.Error as error:
            problems.append(f"{file}:{number}: not a line of a csv file: {error}")
            continue
        label = cells[label_column] if len(cells) == count else ""
        if part is not None and len(cells) == count and len(parts) < _MOST_PARTS:
            parts[cells[part]] += 1
        if len(cells) == count and (path := cells[path_column]) and (label or form.empty or others):
            yield number, path, label if not others else _join([cells[place] for place in columns.labels])
        elif len(cells) == 1 and form.empty and not delimiter:
            yield number, cells[0], ""
        elif not delimiter:
            problems.append(f"{file}:{number}: wanted '<path> <label>', got {quote(text.strip())}")
        else:
            hint = "; a header names the columns path and label" if columns == _Columns() else ""
            problems.append(
                f"{file}:{number}: wanted {count} columns with path and label, got {quote(text.strip())}{hint}"
            )


def _find_delimiter(file: Path, line: str) -> str:
    """Return what separates the cells of a file by its first line, "" of text."""
    suffix = file.suffix.lower()
    if suffix == ".tsv":
        return "\t" if "\t" in line else ""
    if suffix == ".csv" or not any(letter.isspace() for letter in line.strip()):
        return next((delimiter for delimiter in (",", ";") if delimiter in line), "")
    return ""


def _split(line: str, delimiter: str) -> list[str]:
    """Split a line into its cells, without spaces around them; csv.Error where quotes are not closed."""
    if not delimiter:
        return line.strip().rsplit(None, 1)
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    row = next(csv.reader([line.strip(" ")], strict=True, skipinitialspace=True, delimiter=delimiter))
    return [cell.strip() for cell in row]


def _find_columns(line: str, second: str, delimiter: str, form: ListForm) -> _Columns | str | None:
    """Return where path and label stand, if the line is a header; a message where it has not what is to be read."""
    try:
        names, below = _split(line, delimiter), _split(second, delimiter)
    except csv.Error:
        return None
    words = [cell.lower().replace(" ", "_").replace("-", "_") for cell in names]
    path = next((words.index(word) for word in PATH_WORDS if word in words), None)
    part = next((words.index(word) for word in SPLIT_WORDS if word in words), None)
    if form.target:
        if path is None or (absent := [name for name in form.target if name not in names]):
            wanted = "path" if path is None else quote(absent[0]) + did_you_mean(absent[0], names)
            listed = ", ".join(map(quote, names[:_NAMED])) + ", ..." * (len(names) > _NAMED)
            return f"data.target: the header has no column {wanted}; its columns are {listed}"
        places = tuple(names.index(name) for name in form.target)
        several = form.target if len(places) > 1 else ()
        return _Columns(path, places, len(names), several, None if part in places else part)
    label = next((words.index(word) for word in LABEL_WORDS if word in words), None)
    if path is None or (label is None and form.flags is False):
        return None
    if label is not None:
        return _Columns(path, (label,), len(names), part=part)
    others = tuple(place for place in range(len(names)) if place != path)
    is_flags = len(below) == len(names) and all(below[place] in ("0", "1") for place in others)
    if len(others) < 2 or (form.flags is None and not is_flags):
        return None
    return _Columns(path, others, len(names), tuple(names[place] for place in others))


def _join(cells: Iterable[str]) -> str:
    return "".join(cell + TARGET_END for cell in cells)
