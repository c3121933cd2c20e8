"""Everything that can be wrong with a dataset on disk, found before a run: lists, files, labels, splits that leak."""

import contextlib
import dataclasses
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vision_peft.data.check.contents import Content, Progress, read_contents
from vision_peft.data.check.findings import PROBLEM, WARNING, Finding, Item
from vision_peft.data.check.report import TaskReport
from vision_peft.data.check.target_facts import check_targets, count_labels, name_label
from vision_peft.data.config import SPLITS, DataConfig
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.problems import DataProblems

_SAID_HERE = re.compile(r"\d+ of \d+ classes have no (training )?(image|video)")  # readers warn of it too
_NAMED = 5  # things that a text names
_NOT_DECODED = -1


def check_tasks(data: DataConfig, workers: int, progress: Progress | None = None) -> Iterator[TaskReport]:
    """Check the dataset `data`, or one after another the tasks that its `data.task` stands for (a group, or all).

    `workers` threads decode. Tasks of a group that are not there come last, with one problem.

    Raises:
        ValueError, OSError: there is nothing to check: no such folder, no such task, not one split with its files.
    """
    missing: dict[DataConfig, ValueError | OSError] = {}
    tasks = _list_tasks(data)
    for config in tasks:
        try:
            yield _check(config, workers, progress)
        except (ValueError, OSError) as error:
            missing[config] = error
    if len(missing) == len(tasks):
        error = next(iter(missing.values()))
        raise error if len(tasks) == 1 else ValueError(f"not one of {len(tasks)} tasks can be checked: {error}")
    for config, error in missing.items():
        yield TaskReport(config, findings=[Finding(PROBLEM, "task", str(error))])


def _list_tasks(data: DataConfig) -> list[DataConfig]:
    task = dataclasses.asdict(data).get("task")
    names = [name for group, members in data.suite.items() if task in ("all", group) for name in members]
    return [dataclasses.replace(data, task=name) for name in names] or [data]


def _check(config: DataConfig, workers: int, progress: Progress | None) -> TaskReport:
    report = TaskReport(config)
    report.findings += _load(config, report.datasets)
    with warnings.catch_warnings():  # PIL's remarks about odd files name no file
        warnings.simplefilter("ignore")
        report.contents = read_contents(report.datasets, workers, progress)
    report.findings += [*_check_classes(report.datasets), *check_targets(report.datasets)]
    report.findings += [*_check_files(report), *_find_copies(report)]
    report.findings.sort(key=lambda finding: finding.severity)  # "problem" before "warning"
    return report


def _load(config: DataConfig, datasets: dict[str, ImageDataset]) -> list[Finding]:
    """Fill `datasets` with the splits that can be read; return what the reader says about them, each thing once."""
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    errors: list[Exception] = []
    load, problems = None, list[str]()
    with _note(said, errors, list(SPLITS)):
        load = config.open_splits(problems)
        for text in problems:
            said[PROBLEM, text] += SPLITS
    for split in SPLITS if load else ():
        with _note(said, errors, [split]):
            if len(dataset := load(split)) or not problems:  # else all in it is a problem
                datasets[split] = dataset
    if not datasets and not any(isinstance(error, DataProblems) for error in errors):
        raise errors[0]
    return [Finding(severity, "reader", text, splits) for (severity, text), splits in said.items()]


@contextlib.contextmanager
def _note(said: dict[tuple[str, str], list[str]], errors: list[Exception], splits: list[str]) -> Iterator[None]:
    """Note the warnings and the error of a reader in `said`, as being about `splits`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (ValueError, OSError) as error:
            errors.append(error)
            for text in error.problems if isinstance(error, DataProblems) else [str(error)]:
                said[PROBLEM, text] += splits
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        if not _SAID_HERE.search(text):
            said[WARNING, text] += splits


def _check_classes(datasets: Mapping[str, ImageDataset]) -> Iterator[Finding]:
    if not datasets:
        return
    (first, classes), *others = [(split, dataset.classes) for split, dataset in datasets.items()]
    for split, names in others:
        if names != classes:
            text = f"{split} has other classes than {first}: {_name_some(names)} against {_name_some(classes)}"
            yield Finding(PROBLEM, "classes", text, [first, split])
    if repeated := [name for name, times in Counter(classes).items() if times > 1]:
        yield Finding(PROBLEM, "classes", f"class names must differ, repeated: {_name_some(repeated)}", [first])
    targets = datasets[first].targets
    numbers = targets is not None and (targets.values is not None or targets.kind == "depth")
    if len(classes) < 2 and not numbers:
        yield Finding(PROBLEM, "classes", f"there is nothing to learn from {len(classes)} class", [first])
    for split, dataset in datasets.items():
        count = len(dataset.classes)
        labels = np.asarray(dataset.labels)
        table = None if dataset.targets is None else dataset.targets.values
        wrong = np.flatnonzero((labels < 0) | (labels >= (count if table is None else len(table)))).tolist()
        if outside := [Item(split, dataset.path(index), dataset.labels[index]) for index in wrong]:
            named = _name_some([f"{item.path} ({item.label})" for item in outside])
            text = f"{_count(len(outside), 'label')} of {split} out of range, wanted 0 to {count - 1}: {named}"
            yield Finding(PROBLEM, "label_range", text, [split], outside)
        what = dataset.what
        empty = [name for name, times in zip(dataset.classes, count_labels(dataset), strict=False) if not times]
        if empty and split in ("train", "test"):
            text = f"{len(empty)} of {count} classes have no {what} in {split}: {_name_some(empty)}"
            yield Finding(WARNING, "empty_class", text, [split])


def _check_files(report: TaskReport) -> Iterator[Finding]:
    """List what is wrong with single files."""
    turned, misnamed = [], []
    wanting = {path: odd for path, content in report.contents.items() if (odd := _find_odds(path, content))}
    places_of: dict[str, list[Item]] = {path: [] for path in sorted(wanting)}
    for item in _list_items(report.datasets, places_of.__contains__):
        places_of[item.path].append(item)
    for path, places in places_of.items():
        content = report.contents[path]
        if isinstance(content, ImageDecodeError):
            splits = [split for split in SPLITS if any(item.split == split for item in places)]
            is_file = report.datasets[places[0].split].file(0) is not None  # else a part of one
            kind = "missing" if is_file and not Path(path).exists() else "unreadable"
            text = f"{path}: {content.cause if kind == 'unreadable' else 'there is no such file'}"
            yield Finding(PROBLEM, kind, text, splits, places)
        elif header := content.header:
            if "turned" in wanting[path]:
                turned.append((places, f"orientation {header.orientation}"))
            if "misnamed" in wanting[path]:
                misnamed.append((places, header.format))
    can_turn = any(field.name == "exif_rotation" for field in dataclasses.fields(report.config))
    as_stored = f"data={report.config.name} reads them as they are stored"
    way_out = "data.exif_rotation=true does so" if can_turn else as_stored
    for kind, found, words in (
        ("exif_rotation", turned, f"that EXIF data would rotate ({way_out})"),
        ("extension", misnamed, "whose format does not match the extension"),
    ):
        if found:
            named = _name_some([f"{places[0].path} ({what})" for places, what in found])
            items = [item for places, _ in found for item in places]
            splits = [split for split in SPLITS if any(item.split == split for item in items)]
            yield Finding(WARNING, kind, f"{_count(len(found), 'file')} {words}: {named}", splits, items)


def _find_odds(path: str, content: Content | ImageDecodeError) -> tuple[str, ...]:
    """Say what is odd about one file: nothing about most of them."""
    if isinstance(content, ImageDecodeError):
        return ("undecodable",)
    if not (header := content.header):
        return ()
    named = Image.EXTENSION.get(os.path.splitext(path)[1].lower(), header.format)  # noqa: PTH122
    is_misnamed = header.format != named and {header.format, named} != {"JPEG", "MPO"}  # cameras call an MPO .jpg
    return ("turned",) * (header.orientation > 1) + ("misnamed",) * is_misnamed


def _find_copies(report: TaskReport) -> Iterator[Finding]:
    """Find images that are in several places, and whether trainval is train and val."""
    groups: dict[bytes, list[Item]] = defaultdict(list)
    several = _list_several(report)
    for item in _list_items(report.datasets, lambda path: _start_of(report.contents[path]) in several):
        content = report.contents[item.path]
        if isinstance(content, Content):
            groups[content.pixels].append(item)
    lacking, beyond = [], []
    for items in groups.values():
        parts = [item for item in items if item.split in ("train", "val")]
        joined = [item for item in items if item.split == "trainval"]
        if parts and not joined:
            lacking += parts
        if joined and not parts:
            beyond += joined
        # trainval is made of train and val: what it shares with them is expected
        yield from _compare_copies(
            report, [item for item in items if item.split != "trainval"] if parts else items, items
        )
    if {"train", "val", "trainval"} <= report.datasets.keys() and (lacking or beyond):
        words = [f"lacks {_count(len(lacking), report.what)} of them"] * bool(lacking)
        words += [f"has {_count(len(beyond), report.what)} that neither has"] * bool(beyond)
        text = f"trainval is not train and val together: it {' and '.join(words)}"
        yield Finding(WARNING, "trainval", text, ["train", "val", "trainval"], lacking + beyond)


def _list_several(report: TaskReport) -> frozenset[int]:
    """List what the hashes of images start with that more is to be said of than that they are there once.

    Of a million images that are nothing but that, nothing is kept but numbers.
    """
    starts, labels = {}, {}
    for split, dataset in report.datasets.items():
        found = (_start_of(report.contents[dataset.path(index)]) for index in range(len(dataset)))
        starts[split], labels[split] = np.fromiter(found, np.int64), np.asarray(dataset.labels)
    nothing = np.empty(0, np.int64)
    divided = np.concatenate([nothing, *(part for split, part in starts.items() if split != "trainval")])
    joined = starts.get("trainval", nothing)
    trained = np.concatenate([nothing, *(starts[split] for split in ("train", "val") if split in starts)])
    counted = [np.unique(part, return_counts=True) for part in (divided, joined)]
    several = [values[counts > 1] for values, counts in counted]
    if {"train", "val", "trainval"} <= starts.keys():
        several.append(np.setxor1d(trained, joined))
    both = np.unique(np.stack([np.concatenate([nothing, *part.values()]) for part in (starts, labels)]), axis=1)
    several.append(both[0, 1:][both[0, 1:] == both[0, :-1]])  # one image with several labels
    return frozenset(np.concatenate(several).tolist()) - {_NOT_DECODED}


def _start_of(content: Content | ImageDecodeError) -> int:
    """Return what the hash of an image starts with, as a number."""
    return int.from_bytes(content.pixels[:7], "big") if isinstance(content, Content) else _NOT_DECODED


def _compare_copies(report: TaskReport, items: list[Item], everywhere: list[Item]) -> Iterator[Finding]:
    in_split = Counter(item.split for item in items)
    splits, what = list(in_split), "an image" if report.what == "image" else f"a {report.what}"
    files = {content.file for item in items if isinstance(content := report.contents[item.path], Content)}
    same = "the same file" if len(files) == 1 and None not in files else "the same pixels"
    if len(splits) > 1:
        text = f"{', '.join(splits[:-1])} and {splits[-1]} share {what} ({same}): {_name_places(items)}"
        yield Finding(PROBLEM, "overlap", text, splits, items)
    for split, times in in_split.items():
        if times > 1:
            inside = [item for item in items if item.split == split]
            text = f"{split} holds {what} {times} times ({same}): {_name_places(inside)}"
            yield Finding(WARNING, "duplicate", text, [split], inside)
    if len({item.label for item in everywhere}) > 1:
        dataset = next(iter(report.datasets.values()))
        named = dict.fromkeys(f"{item.path} is {name_label(dataset, item.label)}" for item in everywhere)
        text = f"one {report.what} has several labels ({same}): {_name_some(list(named))}"
        yield Finding(PROBLEM, "label_conflict", text, list(dict.fromkeys(i.split for i in everywhere)), everywhere)


def _list_items(
    datasets: Mapping[str, ImageDataset], wanted: Callable[[str], bool] = lambda path: True
) -> Iterator[Item]:
    """List the places of all images, or of those of the `wanted` paths."""
    for split, dataset in datasets.items():
        for index, label in enumerate(dataset.labels):
            if wanted(path := dataset.path(index)):
                yield Item(split, path, label)


def _name_places(items: Sequence[Item]) -> str:
    return _name_some([f"{item.path} ({item.split})" for item in items])


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
