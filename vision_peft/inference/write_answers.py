"""Write predictions to files: lines of JSON that a later start goes on with, a table as CSV, features as npz."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from vision_peft.inference.feature_files import Features, RowFile, write_features
from vision_peft.printable import for_csv, printable
from vision_peft.safe_files import open_regular, open_to_append, replacing
from vision_peft.strict_json import parse_json
from vision_peft.tasks.task import Task

MAX_LINE = 2**24  # bytes of one answer; 100,000 classes with their probabilities take 3 million


class Answer(NamedTuple):
    """What the model says of one file."""

    path: str
    guesses: list[tuple[str, float]]  # label, probability; the likeliest first; or name, number
    truth: str | None  # the label, where it is known
    probabilities: list[float] | None  # of all classes, where they are asked for
    features: np.ndarray | None
    label: str  # the answer in a few words: the likeliest label, all of a set of labels, a number with its unit
    expected: float | None = None  # of grades, their mean by probability


class JsonLines:
    """A file of one JSON object a line, appended to as answers come: whatever ends the program, whole lines are there.

    A line holds `path`, `label`, `probability`, `top` (pairs, the likeliest first), `true` where it is known and
    `probabilities` (by class) where they are asked for; of grades also `expected`. Of other tasks it holds `path` and
    what `Task.to_json` gives: `labels`, pairs of those above their thresholds, or `values` by name and their `unit`.

    Args:
        file: to append to; None writes to `stream`.
        stream: of text.
        task: what is answered; its classes are the names of `probabilities`.
    """

    def __init__(self, file: Path | None, stream: IO[str], task: Task) -> None:
        self.task, self._stream = task, stream
        self._file = None if file is None else open_to_append(file)

    def write(self, answers: Sequence[Answer]) -> None:
        """Append answers."""
        text = "".join(_dump(self._describe(answer)) + "\n" for answer in answers)
        if self._file is None:
            self._stream.write(text)
            self._stream.flush()
            return
        left = memoryview(text.encode())
        while left:
            left = left[self._file.write(left) :]

    def close(self) -> None:
        """Bring the lines to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()

    def _describe(self, answer: Answer) -> dict[str, Any]:
        found: dict[str, Any] = {"path": answer.path}
        if self.task.ranks_names:
            found |= {"label": answer.label, "probability": answer.guesses[0][1]}
            found |= {} if answer.expected is None else {"expected": answer.expected}
            found |= {} if answer.truth is None else {"true": answer.truth}
            found["top"] = [[name, value] for name, value in answer.guesses]
        else:
            found |= self.task.to_json(answer.guesses)
        if answer.probabilities is not None:
            found["probabilities"] = dict(zip(self.task.classes, answer.probabilities, strict=True))
        return found


def _dump(entry: dict[str, Any]) -> str:
    text = json.dumps(entry, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a name of a file that is not UTF-8
        text = json.dumps(entry)
    return text


class Written(NamedTuple):
    """One answer that an earlier start wrote."""

    path: str
    label: str
    truth: str | None
    surest: tuple[str, float] | None = None  # the likeliest class and its probability, where the line says them


def resume_lines(file: Path) -> list[Written]:
    """Return what a file of answers holds already; a last line without its end is cut off.

    Raises:
        ValueError: a line that is no answer, by its number.
    """
    found, length = list[Written](), 0
    with open_regular(file) as opened:
        for number, line in enumerate(iter(lambda: opened.readline(MAX_LINE), b""), start=1):
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE:
                    raise ValueError(
                        f"{file}:{number}: a line of more than {MAX_LINE:,} bytes is not an answer of predict"
                    )
                break
            found.append(_read_line(line, f"{file}:{number}"))
            length += len(line)
    if length < file.stat().st_size:
        os.truncate(file, length)
    return found


def _read_line(line: bytes, where: str) -> Written:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{where}: not a line of JSON: {error}") from None
    known = values if isinstance(values, dict) else {}
    whole = "labels" in known or "values" in known  # of a task that does not rank names
    path, label, truth = known.get("path"), known.get("label", "" if whole else None), known.get("true")
    if not isinstance(path, str) or not isinstance(label, str) or not isinstance(truth, str | None):
        raise ValueError(f"{where}: not an answer of predict (path, label, ...): {printable(values, 60)}")
    return Written(path, label, truth, _find_surest(known))


def _find_surest(line: dict[str, Any]) -> tuple[str, float] | None:
    """Return the likeliest class of a line and its probability; None where it does not have them."""
    match line.get("top"):
        case [*pairs] if pairs and all(_is_guess(pair) for pair in pairs):
            name, probability = max(pairs, key=lambda pair: pair[1])
        case _:
            return None
    if "expected" in line and len(pairs) == 1 and probability <= 0.5:  # a grade in the middle: another may be likelier
        return None
    return name, float(probability)


def _is_guess(pair: Any) -> bool:
    match pair:
        case [str(), int() | float() as probability]:
            return 0 <= probability <= 1
    return False


class CsvTable:
    """A table with a row a file: path, likeliest label, its probability, the others of the top, all probabilities.

    Of grades the expected one stands behind the truth. Where names are not ranked a row has the cells of
    `Task.to_cells` behind the path.

    Args:
        file: the open file.
        top: how many labels.
        task: what is answered.
        probabilities: of all classes, a column for each.
    """

    def __init__(self, file: IO[bytes], top: int, task: Task, probabilities: bool) -> None:
        self._file, self._text, self._task = file, io.StringIO(newline=""), task
        self._writer = csv.writer(self._text)
        named = [for_csv(f"p({name})") for name in (task.classes if probabilities and task.names_classes else ())]
        if not task.ranks_names:
            nothing = [] if task.names_classes else [(name, 0.0) for name in task.classes]
            self._row(["path", *map(for_csv, task.to_cells(nothing)), *named])
            return
        others = [name for rank in range(2, top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
        expected = ["expected"] * task.expects
        self._row(["path", "label", "probability", "true", *expected, *others, *named])

    def write(self, answers: Sequence[Answer]) -> None:
        """Append a row for each answer."""
        for answer in answers:
            if not self._task.ranks_names:
                cells = [for_csv(cell) for cell in self._task.to_cells(answer.guesses).values()]
                self._row([for_csv(answer.path), *cells, *(answer.probabilities or ())])
                continue
            (label, probability), *others = answer.guesses
            rest = [] if answer.expected is None else [answer.expected]
            rest += [cell for name, value in others for cell in (for_csv(name), value)]
            first = [for_csv(answer.path), for_csv(label), probability, for_csv(answer.truth)]
            self._row([*first, *rest, *(answer.probabilities or ())])

    def _row(self, cells: Sequence[object]) -> None:
        self._writer.writerow(cells)
        self._file.write(self._text.getvalue().encode("utf-8", "backslashreplace"))
        self._text.seek(0)
        self._text.truncate()


@contextlib.contextmanager
def open_csv(file: Path, top: int, task: Task, probabilities: bool = False) -> Iterator[CsvTable]:
    """Give a table that takes the place of `file` at the end, whole or not at all."""
    with replacing(file) as opened:
        yield CsvTable(opened, top, task, probabilities)


class FeatureFile:
    """Embeddings of files as an npz of `features` (N D, float32), `paths`, `labels` (-1: unknown) and `classes`."""

    def __init__(self, file: Path, classes: Sequence[str]) -> None:
        self.file, self.classes = file, list(classes)
        self._rows = RowFile(file.parent)
        self._paths, self._labels = list[str](), list[int]()

    def write(self, answers: Sequence[Answer]) -> None:
        """Append a row for each answer."""
        rows = [answer.features for answer in answers if answer.features is not None]
        if len(rows) < len(answers):
            raise ValueError("an answer without features cannot be written to a file of features")
        self._rows.append(np.array(rows, np.float32))
        self._paths += [answer.path for answer in answers]
        self._labels += [self.classes.index(each.truth) if each.truth in self.classes else -1 for each in answers]

    def save(self) -> None:
        """Write the file."""
        write_features(
            self.file, Features(self._rows.read(), self._paths, np.array(self._labels, np.int64), self.classes)
        )

    def close(self) -> None:
        """Let go of the rows."""
        self._rows.close()
