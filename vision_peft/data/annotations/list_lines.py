"""Read the lines of a user's own list file, path and label: text, or cells between commas, semicolons or tabs.

Text is `path label`, the label being what follows the last space. A file is of cells if it is called `.tsv` and its
first line holds a tab, or if that line holds a comma or a semicolon and either the file is called `.csv` or there is no
space in it. A first line of known words, such as `filename,class`, is a header.
"""

import csv
import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision_peft.data.annotations.list_files import iterate_lines
from vision_peft.data.flat_arrays import IntArray, TextArray, TextBuilder
from vision_peft.data.item_names import to_nfc
from vision_peft.data.problems import quote

# words of a header; of several columns the first of these is meant
_FILES = ("path", "file", "filename", "file_name", "filepath", "file_path", "paths", "files", "filenames")
_PICTURES = ("image", "image_path", "imagepath", "image_name", "image_file", "img", "img_path", "img_name", "images")
_CLIPS = ("video", "video_path", "video_name", "video_file", "clip", "clip_path", "videos")
PATH_WORDS = (*_FILES, *_PICTURES, *_CLIPS)
LABEL_WORDS = (
    *("label", "class", "class_name", "classname", "category", "category_name", "label_name", "target"),
    *("labels", "classes", "categories", "targets", "class_id", "classid", "label_id", "category_id", "y"),
)


@dataclass(frozen=True)
class ListLines:
    """What a list file says: `paths[i]` is of the class `texts[labels[i]]`, on line `lines[i]` (from 1)."""

    paths: TextArray
    labels: IntArray
    lines: IntArray
    texts: list[str]  # of the labels, in NFC, each once
    respelt: list[str]  # those that stood there in several spellings of Unicode

    def without_first(self) -> "ListLines":
        """Return the same without the first line; a text that is no label any more is gone."""
        used = np.unique(self.labels.values[1:])
        labels = IntArray(np.searchsorted(used, self.labels.values[1:]))
        return ListLines(self.paths[1:], labels, self.lines[1:], [self.texts[place] for place in used], self.respelt)


class _Columns(NamedTuple):
    path: int = 0
    label: int = 1
    count: int = 2


def read_list_lines(file: Path, problems: list[str]) -> ListLines:
    """Read the lines of a list file, unchecked; malformed ones are appended to `problems`."""
    paths, labels, lines = TextBuilder(), array("q"), array("q")
    number_of: dict[str, int] = {}  # of the text of a label
    first_of: dict[str, str] = {}  # label in NFC -> as it is written first
    respelt: dict[str, None] = {}
    for line, path, label in _read(file, problems):
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
    return ListLines(paths.build(), numbers, places, [*first_of], [*respelt])


def _read(file: Path, problems: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yield number, path and label of every line that has both, below a header."""
    lines = iterate_lines(file, problems)
    number, text = next(lines, (0, ""))
    if not number:
        return
    delimiter = _find_delimiter(file, text)
    columns = _find_columns(text, delimiter)
    if columns is None:
        columns, lines = _Columns(), itertools.chain([(number, text)], lines)
    path_column, label_column, count = columns
    for number, text in lines:
        try:
            cells = _split(text, delimiter) if delimiter else text.strip().rsplit(None, 1)
        except csv.Error as error:
            problems.append(f"{file}:{number}: not a line of a csv file: {error}")
            continue
        if len(cells) == count and (path := cells[path_column]) and (label := cells[label_column]):
            yield number, path, label
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


def _find_columns(line: str, delimiter: str) -> _Columns | None:
    """Return where path and label stand, if the line is a header."""
    try:
        cells = _split(line, delimiter)
    except csv.Error:
        return None
    words = [cell.lower().replace(" ", "_").replace("-", "_") for cell in cells]
    path = next((words.index(word) for word in PATH_WORDS if word in words), None)
    label = next((words.index(word) for word in LABEL_WORDS if word in words), None)
    return None if path is None or label is None else _Columns(path, label, len(cells))
