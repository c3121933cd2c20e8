"""The list files of one dataset, of train and, where they are given, val and test, read and checked together."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision_peft.data.annotations.join_lists import join_lists
from vision_peft.data.annotations.json_lists import read_json_lines
from vision_peft.data.annotations.list_files import (
    MAX_CLASSES,
    MAX_NAME,
    find_label_problem,
    is_integer,
    read_class_names,
    warn_of_empty_classes,
)
from vision_peft.data.annotations.list_lines import ListForm, ListLines, read_list_lines
from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.annotations.split_items import SplitItems
from vision_peft.data.annotations.split_names import guess_split
from vision_peft.data.annotations.target_texts import (
    POINT,
    AnyClasses,
    Grades,
    LabelSets,
    Numbers,
    TargetTexts,
    find_commas,
    find_task_kind,
)
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.problems import quote, raise_problems, unknown
from vision_peft.home_paths import expand_home
from vision_peft.printable import name_some, printable, warn
from vision_peft.suggest import Suggestions, did_you_mean

_NAMED = 5  # splits in a message
KINDS = ("auto", "classes", "multilabel", "ordinal", "regression", "embedding")


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
    task_kind: str = "classes"  # or auto
    target: tuple[str, ...] = ()  # names of the columns that are read
    unit: str = ""  # of numbers
    test_fraction: float = 0.0  # of train, drawn where there is no test list; 0: there is no test

    def read(self, check: PathCheck, problems: list[str] | None = None) -> SplitItems:
        """Return the items of all lists, as the parts train, val and, where there is a list, test.

        One ValueError names every problem of all the lists, with file and line; where a list `problems` is given they
        are appended to that, and what is sound is returned.
        """
        root, name = self.root, self.name
        if not self.train:
            raise ValueError(f"data={name} needs the list of the training {check.what}s: give data.train=FILE")
        given = {"train": self.train, "val": self.val, "test": self.test}
        files = {part: _file(root, part, text) for part, text in given.items() if text}
        found: list[str] = []
        names_file = _file(root, "classes", self.classes) if self.classes else None
        names = read_class_names(names_file, found) if names_file else []
        kind, lists = self._read_lists(files, names, found)
        if self.task_kind == "auto" and kind == "classes" and (few := find_commas(lists["train"])):
            warn(f"{files['train']}: labels such as {few} are read as names of classes: {POINT}", stacklevel=3)
        lists = {part: _drop_header(files[part], lines, check, found) for part, lines in lists.items()}
        texts = self._find_targets(kind, lists, names, names_file or files["train"], found)
        classes, find_label = (
            (texts.classes, texts.find) if texts else _labels(lists, names, names_file or files["train"])
        )
        items = join_lists(files, lists, check, classes, find_label, found)
        items.targets = texts and texts.table()
        if problems is None or not len(items.parts["train"]):
            raise_problems(f"data={name} data.root={root}", found)
        else:
            problems += found
        if respelt := sorted({name for lines in lists.values() for name in lines.respelt}):
            few = "classes whose names differ in their Unicode spelling alone are one"
            warn(f"{files['train']}: {few}: {name_some(respelt)}", stacklevel=3)
        for part, lines in lists.items():
            if len(lines.parts) > 1 and any(map(guess_split, lines.parts)):
                warn(_describe_parts(files[part], part, lines.parts), stacklevel=3)
        shares = {"test": self.test_fraction} if self.test_fraction and "test" not in items.parts else {}
        shares |= {} if "val" in items.parts else {"val": self.val_fraction}
        if shares:
            items.draw_parts("train", shares, self.seed, str(files["train"]))
        return items

    def take(self, items: SplitItems, split: str, what: str) -> tuple[TextArray, IntArray]:
        """Return paths and labels of `split`; FileNotFoundError where no list gives it, a warning of empty classes."""
        if split == "test" and "test" not in items.parts:
            drawn = " or data.test_fraction" * (self.name == "list")
            raise FileNotFoundError(f"data={self.name} has no test {what}s: give data.test=FILE{drawn}")
        paths, labels = items.take(split)
        if split in ("train", "trainval"):
            present = labels
            if items.targets is not None and items.targets.kind == "multilabel" and items.targets.values is not None:
                present = np.flatnonzero(items.targets.values[np.unique(labels.values)].any(0)).tolist()
            if items.targets is None or items.targets.kind not in ("regression", "embedding"):
                warn_of_empty_classes(_file(self.root, "train", str(self.train)), items.classes, present, what)
        return paths, labels

    def _read_lists(
        self, files: Mapping[str, Path], names: list[str], problems: list[str]
    ) -> tuple[str, dict[str, ListLines]]:
        """Return the kind of task, found from the labels of train where it is not given, and the lines of all lists."""
        kind, lists, found = self.task_kind, dict[str, ListLines](), list[str]()
        if kind == "auto":
            train = _read(files["train"], found, ListForm(self.target, empty=True, flags=None))
            kind = find_task_kind(train, names)
            if kind == "multilabel" or not (train.has_empty or train.columns):  # else what is empty is a problem
                lists["train"] = train
                problems += found
        form = ListForm(self.target, empty=kind == "multilabel", flags=kind == "multilabel")
        others = {part: _read(file, problems, form) for part, file in files.items() if part not in lists}
        return kind, lists | others

    def _find_targets(
        self, kind: str, lists: Mapping[str, ListLines], names: list[str], source: Path, problems: list[str]
    ) -> TargetTexts | None:
        """Return what finds labels that are not classes; None where they are."""
        train = lists["train"]
        if kind == "multilabel":
            return LabelSets(train, names, source)
        if kind == "ordinal":
            return Grades(lists, names, problems, source)
        if kind == "regression":
            return Numbers(train, self.target, self.unit)
        if kind == "embedding":
            return AnyClasses(lists, names, source)
        return None


def _read(file: Path, problems: list[str], form: ListForm) -> ListLines:
    if file.suffix.lower() == ".json":
        return read_json_lines(file, problems, form)
    return read_list_lines(file, problems, form)


def _file(root: Path, field: str, text: str) -> Path:
    file = root / expand_home(text)
    if file.is_file():
        return file
    siblings = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
    hint = did_you_mean(file.name, siblings, prefix=f"{file.parent}/")
    raise FileNotFoundError(f"data.{field}={text}: there is no file {file}{hint}")


def _drop_header(file: Path, lines: ListLines, check: PathCheck, problems: list[str]) -> ListLines:
    """Leave out a first line that is no item but words, where the second one is; `problems` then has it."""
    if len(lines.paths) < 2 or not {".", "/"}.isdisjoint(lines.paths[0]):
        return lines
    if not check.find_problem(lines.paths[0]) or check.find_problem(lines.paths[1]):
        return lines
    words = f"{quote(lines.paths[0])} and {quote(lines.texts[0])}"
    problems.append(
        f"{file}:{lines.lines[0]}: looks like a header ({words}): name its columns path and label, or remove it"
    )
    return lines.without_first()


def _describe_parts(file: Path, part: str, counts: Mapping[str, int]) -> str:
    """Say in a line that the splits which a list names are not read."""
    named = ", ".join(f"{count:,} {name or 'empty'}" for name, count in [*counts.items()][:_NAMED])
    more = ", ..." * (len(counts) > _NAMED)
    return printable(
        f"{file}: the splits that it names ({named}{more}) are not read, all its lines are of data.{part}: give a list "
        "for each split (data.train, data.val, data.test)",
        1000,
    )


def _labels(
    lists: Mapping[str, ListLines], names: list[str], source: Path
) -> tuple[list[str], Callable[[str], int | str]]:
    """Return the classes, and a function from the text of a class to its label, or to a message if there is none."""
    train = lists["train"]
    if len(train.labels) and is_integer(train.texts[train.labels[0]]):
        trained = [text for part in ("train", "val") if part in lists for text in lists[part].texts]
        largest = max((int(label) for label in trained if not find_label_problem(label, MAX_CLASSES)), default=0)
        count = len(names) or largest + 1
        classes = names or [str(label) for label in range(count)]
        return classes, lambda label: find_label_problem(label, count) or int(label)

    classes = names or sorted(train.texts)
    place = {name: label for label, name in enumerate(classes)}
    suggest = Suggestions(classes)

    def find(name: str) -> int | str:
        if len(name) > MAX_NAME:
            return f"class {quote(name)} has {len(name):,} letters, wanted at most {MAX_NAME:,}"
        if not names and is_integer(name):
            return f"label {quote(name)} is a number among class names; data.classes=FILE treats it as a name"
        if name in place:
            return place[name]
        return f"class {quote(name)} is not among the {len(classes)} classes of {source}{suggest(name)}"

    return classes, find


def check_target(task_kind: str, target: str | tuple[str, ...]) -> None:
    """Raise ValueError for an unknown kind of task, and for several columns where a task has one label an image."""
    if task_kind not in KINDS:
        raise unknown("data.task_kind", task_kind, KINDS)
    if task_kind in ("classes", "ordinal", "embedding") and isinstance(target, tuple) and len(target) > 1:
        raise ValueError(
            f"data.target names {len(target)} columns, data.task_kind={task_kind} has one label an image: give one"
        )
    if not all(target if isinstance(target, tuple) else (target,)):
        raise ValueError("data.target names columns of the lists, got an empty name")
