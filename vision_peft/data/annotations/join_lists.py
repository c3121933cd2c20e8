"""Check the lines of all lists of a dataset, and put those that are sound together."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision_peft.data.annotations.list_lines import ListLines
from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.annotations.split_items import SplitItems
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.problems import quote
from vision_peft.printable import warn

REPEATED = ": list it once; data.balanced=true trains on rare classes as often as on others"


@dataclass
class _Part:
    """The lines of one list; `labels` are -1 where the text is none, `names` what two spellings have in common."""

    file: Path
    lines: ListLines
    paths: TextArray  # full
    names: TextArray
    labels: np.ndarray
    label_problems: dict[int, str]  # by the number of the text
    path_problems: dict[int, str]  # by the place of the line


def join_lists(
    files: Mapping[str, Path],
    lists: Mapping[str, ListLines],
    check: PathCheck,
    classes: list[str],
    find_label: Callable[[str], int | str],
    problems: list[str],
) -> SplitItems:
    """Return the sound lines of all lists, each list a part; what is wrong with others is appended to `problems`."""
    parts = {part: _check(files[part], lines, check, find_label) for part, lines in lists.items()}
    repeats = _find_repeats(parts, check.what)
    sound: list[np.ndarray] = []
    for name, part in parts.items():
        bad = part.labels < 0
        bad[[*part.path_problems, *repeats[name]]] = True
        for item in np.flatnonzero(bad).tolist():
            found = [part.label_problems.get(part.lines.labels[item]), part.path_problems.get(item)]
            texts = [text for text in (*found, repeats[name].get(item)) if text]
            problems.extend(f"{part.file}:{part.lines.lines[item]}: {text}" for text in texts)
        if not len(bad) and not any(problem.startswith(f"{part.file}:") for problem in problems):
            problems.append(f"{part.file}: no line below the header")
        sound.append(np.flatnonzero(~bad))
    ends = np.cumsum([0, *map(len, sound)]).tolist()
    taken = list(zip(parts.values(), sound, strict=True))
    return SplitItems(
        TextArray.join([part.paths.take(items) for part, items in taken]),
        TextArray.join([part.names.take(items) for part, items in taken]),
        IntArray(np.concatenate([part.labels[items] for part, items in taken])),
        classes,
        {name: range(start, end) for name, start, end in zip(parts, ends[:-1], ends[1:], strict=True)},
    )


def _check(file: Path, lines: ListLines, check: PathCheck, find_label: Callable[[str], int | str]) -> _Part:
    """Look up labels and files of one list."""
    found = [find_label(text) for text in lines.texts]
    table = np.array([label if isinstance(label, int) else -1 for label in found], dtype=np.int64)
    label_problems = {number: text for number, text in enumerate(found) if isinstance(text, str)}
    path_problems = check.find_problems(lines.paths)
    respelt = {item: path for item in path_problems if (path := _respell(lines.paths[item], check))}
    if respelt:
        path_problems = {item: problem for item, problem in path_problems.items() if item not in respelt}
        listed = f"{len(respelt):,} paths are spelt otherwise in Unicode than the files are called, and mean those"
        warn(f"{file}: {listed}: {quote(next(iter(respelt.values())))}", stacklevel=4)
    paths = _complete(lines.paths, respelt, str(check.root))
    names = check.list_names(lines.paths, paths)
    return _Part(file, lines, paths, names, table[lines.labels.values], label_problems, path_problems)


def _respell(path: str, check: PathCheck) -> str | None:
    """Return the path of the file that differs from a missing one in its Unicode spelling alone."""
    if path.isascii() or not (other := check.find_spelling(path)):
        return None
    return None if check.find_problem(other) else other


def _complete(paths: TextArray, respelt: Mapping[int, str], root: str) -> TextArray:
    """Return paths below `root`, or absolute ones, as full ones."""
    below = os.path.join(root, "")  # noqa: PTH118
    if not respelt and not paths.starts_with("/"):
        return TextArray(paths.data, paths.starts, paths.ends, below)
    full = (os.path.join(root, respelt.get(item, path)) for item, path in enumerate(paths))  # noqa: PTH118
    return TextArray.of(full)


def _find_repeats(parts: Mapping[str, _Part], what: str) -> dict[str, dict[int, str]]:
    """Describe the lines whose file an earlier one has, lists in their order."""
    found: dict[str, dict[int, str]] = {name: {} for name in parts}
    starts = np.cumsum([0, *(len(part.names) for part in parts.values())])
    hashes = np.concatenate([np.fromiter(map(hash, part.names.iterate_encoded()), np.int64) for part in parts.values()])
    exists = np.ones(len(hashes), dtype=bool)
    for start, part in zip(starts.tolist(), parts.values(), strict=False):
        exists[[start + item for item in part.path_problems]] = False
    for first, again in _pair_equal(np.flatnonzero(exists), hashes):
        (name, item), (other, earlier) = (_locate(place, starts, parts) for place in (again, first))
        if parts[name].names[item] != parts[other].names[earlier]:
            continue  # two names of one hash
        line = parts[other].lines.lines[earlier]
        already = f"is already on line {line}" if other == name else f"is also in {parts[other].file}:{line}"
        way_out = REPEATED * (other == name == "train")
        found[name][item] = f"{what} {quote(parts[name].lines.paths[item])} {already}{way_out}"
    return found


def _pair_equal(places: np.ndarray, hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first of the places that have a hash with each other place that has it."""
    order = places[np.argsort(hashes[places], kind="stable")]
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    first = before = -1
    for position in equal.tolist():
        first = first if position == before + 1 else position - 1
        before = position
        yield int(order[first]), int(order[position])


def _locate(place: int, starts: np.ndarray, parts: Mapping[str, _Part]) -> tuple[str, int]:
    """Return the list and the line there, by the place in all lists together."""
    number = int(np.searchsorted(starts, place, side="right")) - 1
    return [*parts][number], place - int(starts[number])
