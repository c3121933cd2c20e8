"""Find the rows of runs in files, run folders and trees: one a run, whether it has finished or not."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_peft.printable import LONGEST_LINE, name_some, printable
from vision_peft.results.row import FINISHED, RESULT, STATUS, Row, read_row
from vision_peft.results.settings import drop_repeats
from vision_peft.safe_files import check_regular
from vision_peft.suggest import did_you_mean

MOST_NAMED = 5  # links
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What lies below some paths."""

    rows: list[Row]  # of every run, those that have not finished among them; of two equal runs one
    without_row: list[Path]  # unfinished runs, of earlier versions or about to begin


def find_rows(paths: Iterable[str | Path]) -> list[Row]:
    """Find the rows below `paths`, see `find_runs`."""
    return find_runs(paths).rows


def find_runs(paths: Iterable[str | Path]) -> Found:
    """Find the runs in files, run folders and trees: each once, in the order of `paths`, trees sorted by name.

    A run that has not finished has a row that says so in its status. Such runs, and folders without a run, are named in
    the log; so is a second run of the same setting and seed, which is left out. FileNotFoundError if a path does not
    exist or no row is found; ValueError lists all unreadable rows at once.
    """
    files: dict[Path, Path] = {}  # resolved -> as the user wrote it
    without_row: list[Path] = []
    empty: list[Path] = []
    linked: list[Path] = []
    paths = [Path(path) for path in paths]
    if missing := [_describe_missing(path) for path in paths if not path.exists()]:
        raise FileNotFoundError("no such file or folder: " + ", ".join(missing))
    for path in paths:
        found, open_runs, links = ([path], [], []) if path.is_file() else _find_files(path)
        files |= {file.resolve(): file for file in found if file.resolve() not in files}
        without_row += open_runs
        linked += links
        if not found and not open_runs:
            empty.append(path)
    notes = [f"{path} has not finished (no {RESULT} yet)" for path in dict.fromkeys(without_row)]
    notes += [f"{path} does not contain a run" for path in dict.fromkeys(empty)]
    if linked:
        notes.append(
            f"links to folders, which are followed only where they are named ({name_some(linked, MOST_NAMED)})"
        )
    if not files:
        wanted = f"wanted a {RESULT}, a run folder or a folder of runs"
        raise FileNotFoundError(f"no result found: {'; '.join(notes) or 'no path given'}; {wanted}")
    rows = drop_repeats(_read_all(files.values(), named=paths))
    unfinished = [row for row in rows if row.status != FINISHED]
    notes += [f"{row.file and row.file.parent} has not finished ({row.status})" for row in unfinished]
    for note in notes:
        log.warning("%s: left out", printable(note, LONGEST_LINE))
    return Found(rows, list(dict.fromkeys(without_row)))


def _read_all(files: Iterable[Path], named: Sequence[Path]) -> list[Row]:
    rows, problems = [], []
    for file in files:
        try:
            check_regular(file, follow=file in named)  # a link is followed where the user named it
            rows.append(read_row(file))
        except (ValueError, OSError) as error:
            problems.append(printable(error, LONGEST_LINE))
    if problems:
        raise ValueError("\n".join(problems))
    return rows


def _find_files(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Find the rows below `folder`, the unfinished runs without one, and the links to folders.

    Folders inside a run are part of that run.
    """
    rows, without_row, linked = [], [], []
    for root, folders, names in os.walk(folder):
        if RESULT in names or STATUS in names:
            rows.append(Path(root, RESULT if RESULT in names else STATUS))
            folders.clear()
        elif "config.yaml" in names and {"log.txt", "metrics.jsonl", "state"} & {*names, *folders}:
            without_row.append(Path(root))
            folders.clear()
        linked += [path for name in folders if (path := Path(root, name)).is_symlink()]
        folders.sort()
    return rows, without_row, linked


def _describe_missing(path: Path) -> str:
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{path}{did_you_mean(path.name, siblings, prefix='' if path.parent == Path() else f'{path.parent}/')}"
