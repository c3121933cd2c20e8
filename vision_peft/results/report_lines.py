"""Join settings on several tasks into the lines of a report, and say in what the lines differ."""

import functools
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vision_peft.printable import name_some
from vision_peft.protocols import PROTOCOLS
from vision_peft.results.averages import Groups, Mean, average_tasks_over_seeds, list_tasks
from vision_peft.results.labels import cut, format_tried, format_value, list_searched, list_tried
from vision_peft.results.row import Row, find_size_field
from vision_peft.results.settings import (
    COMPUTED,
    RECIPE,
    TUNED,
    UNKNOWN,
    Metric,
    Setting,
    list_chosen_settings,
    list_method_fields,
    list_settings,
)

Place = tuple[str, str | None]  # dataset and task
WORDS = {
    "n_train": "{} train images",
    "img_size": "{} px",
    "num_frames": "{} frames",
    "views": "{} views",
    "normalisation": "normalisation {}",
    "head": "head {}",
    "batch_size": "batch {}",
    "epochs": "{} epochs",
    "lr": "lr {}",
    "weight_decay": "weight decay {}",
    "precision": "{}",
    "world_size": "{} processes",
    "settings": "only some settings recorded",
}
MOST_TRIED = 20  # values of a search that are listed
# Settings that go without saying where they have this value
UNSAID = {"views": 1, "world_size": 1, "settings": "known"}


@dataclass(frozen=True)
class Line:
    """One row of the table: the results of one method setting on each task."""

    settings: dict[Place, Setting]

    @property
    def row(self) -> Row:
        """Give any of the runs, for what all of them share."""
        return next(iter(self.settings.values())).row

    @property
    def rows(self) -> list[Row]:
        """List every run of the line."""
        return [row for setting in self.settings.values() for row in setting.rows]

    @property
    def seeds(self) -> int:
        """Give the largest number of seeds of a task."""
        return max(len(setting.rows) for setting in self.settings.values())

    @property
    def started(self) -> int:
        """Give the largest number of seeds of a task, those that have not finished among them."""
        return max(len(setting.rows) + len(setting.lost) for setting in self.settings.values())

    @functools.cached_property
    def fields(self) -> list[dict[str, Any]]:
        """List the settings of every run."""
        return [list_chosen_settings(row) for row in self.rows]

    @property
    def label(self) -> str:
        """Give the label of the method, without its size where that was chosen for each task."""
        labels = list(dict.fromkeys(row.label for row in self.rows))
        return labels[0] if len(labels) == 1 else self.row.title

    def describe(self, name: str, datasets: Collection[str] = ()) -> str:
        """Describe one of the settings; a range if it was chosen for each task, empty if there is nothing to say.

        With the ``datasets`` of the table a setting of the data names those that it is of, where it is not of all.
        """
        text = _describe_values([fields.get(name) for fields in self.fields], UNSAID.get(name))
        if len(self.settings) == 1:  # what val chose for each seed
            text = text.replace(" by task", " by seed")
        if name in WORDS or not text:
            words = WORDS[name].format(text) if text else ""
            return words.removesuffix("s") if text == "1" else words
        of = {row.dataset for row, fields in zip(self.rows, self.fields, strict=True) if name in fields}
        where = f" on {name_some(sorted(of))}" if _is_of_data(name) and not of.issuperset(datasets) else ""
        return f"{format_value(name)}={text}{where}"

    def describe_sizes(self) -> list[str]:
        """Describe the size of each method that val chose for each task: ["k 5 to 20 by task"]."""
        texts = []
        for place, (method, _) in enumerate(zip(self.row.methods, self.row.sizes, strict=True)):
            sizes = [row.sizes[place] for row in self.rows]
            if len(set(sizes)) > 1:
                texts.append(f"{find_size_field(method['fields'])} {_describe_values(sizes)}")
        return texts

    def means(self, dataset: str, columns: Sequence[str], groups: Groups, metric: Metric) -> dict[str, Mean]:
        """Average over the tasks of a dataset; over a part of `columns` only if that part is a whole benchmark."""
        tasks = {str(task): setting for (name, task), setting in self.settings.items() if name == dataset}
        wanted = list_tasks(groups)
        if wanted and set(wanted) <= tasks.keys():
            tasks = {task: tasks[task] for task in wanted}
        means = average_tasks_over_seeds(tasks, groups, metric) if tasks else {}
        whole = tasks.keys() == set(columns) or tasks.keys() == set(wanted)
        return {label: mean for label, mean in means.items() if whole or not label.startswith("mean of")}


def _describe_values(found: Sequence[Any], unsaid: Any = None) -> str:
    """Describe the values of a setting over tasks: "0.1", or "0.1 to 0.3 by task"; empty where nothing is to say."""
    values = {json.dumps(value): value for value in found if value not in (None, unsaid)}
    in_order = sorted(values.values(), key=_rank)
    texts = list(dict.fromkeys(_format_number(value) for value in in_order))
    return "".join(texts) if len(texts) < 2 else f"{texts[0]} to {texts[-1]} by task"


def _format_number(value: Any) -> str:
    """Format a value, a float in three digits where more would only be those of a power of ten."""
    if not isinstance(value, float):
        return format_value(value)
    return f"{value:g}" if float(f"{value:g}") == value else f"{value:.3g}"


def _is_of_data(name: str) -> bool:
    """Tell whether a setting is one of the dataset."""
    return name.startswith("data.")


def _rank(value: Any) -> tuple[bool, float, str]:
    """Return what sorts values of any types: numbers first, by size, then all else as text."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else 0, format_value(value)


def make_lines(settings: Sequence[Setting]) -> list[Line]:
    """Join settings into lines of the table; fewer settings may differ where a line would have a task twice.

    Between tasks may differ what their data are, and what val chose for each.
    """
    widest = _Free(size_of_train=True, tuned=True, data=True)
    lines = _join(settings, [widest, widest._replace(tuned=False), _Free(size_of_train=True), _Free()])
    return sorted(
        lines, key=lambda line: (line.row.backbone, PROTOCOLS.index(line.row.protocol), line.row.params_trained)
    )


class _Free(NamedTuple):
    """What may differ between the tasks of a line, besides the digest of their data."""

    size_of_train: bool = False
    tuned: bool = False
    data: bool = False  # settings of the dataset

    def is_free(self, name: str, row: Row) -> bool:
        return (
            name == "data"
            or (self.size_of_train and name == "n_train")
            or (self.tuned and name in (*TUNED, *list_searched(row)))
            or (self.data and _is_of_data(name))
        )

    def list_methods(self, row: Row) -> list[Any]:
        """List the methods of a row, their fields without what val chose where that may differ."""
        searched = list_searched(row) if self.tuned else []
        return [
            [method["name"], {name: value for name, value in method["fields"].items() if name not in searched}]
            for method in row.methods
        ]


def _join(settings: Sequence[Setting], frees: Sequence[_Free]) -> list[Line]:
    groups: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        row, free = setting.row, frees[0]
        fixed = {name: value for name, value in list_settings(row).items() if not free.is_free(name, row)}
        groups[json.dumps([free.list_methods(row), row.backbone, row.protocol, fixed], sort_keys=True)].append(setting)
    lines: list[Line] = []
    for group in groups.values():
        of_place: dict[Place, list[Setting]] = defaultdict(list)
        for setting in group:
            of_place[setting.row.dataset, setting.row.task].append(setting)
        most = max(map(len, of_place.values()))
        if most > 1 and frees[1:]:
            lines += _join(group, frees[1:])
        else:  # the same settings on other data: a line for each
            lines += [Line({at: own[n] for at, own in of_place.items() if n < len(own)}) for n in range(most)]
    return lines


def describe_lines(lines: Sequence[Line]) -> tuple[dict[str, list[str]], list[str]]:
    """Make the columns that distinguish lines, and describe what all of them share."""
    columns = {"method": name_lines(lines)}
    shared: list[str] = []
    for name in ("backbone", "protocol"):
        values = [str(getattr(line.row, name)) for line in lines]
        if len(set(values)) > 1:
            columns[name] = values
        else:
            shared.append(values[0])
    recipes: list[list[str]] = [[] for _ in lines]
    datasets = {dataset for line in lines for dataset, _ in line.settings}
    for name in list_names(lines):
        words = [line.describe(name, datasets) for line in lines]
        by_task = any("by task" in word for word in words)
        asked = [words[place] for place in _list_asked(lines, name)]
        if len(set(asked)) == 1 and not by_task:
            shared += filter(None, [] if name in COMPUTED else asked[:1])  # the notes tell where all was computed
        elif name != "n_train" or not by_task:
            for recipe, word in zip(recipes, words, strict=True):
                recipe += filter(None, [word])
    for line, recipe in zip(lines, recipes, strict=True):
        recipe[:0] = line.describe_sizes()
        recipe += _describe_data(line, lines)
    if any(recipes):
        columns["recipe"] = [", ".join(cut(recipe)) for recipe in recipes]
    return columns, cut(shared)


def _list_asked(lines: Sequence[Line], name: str) -> list[int]:
    """List the places of the lines that have data with the setting `name`; all of them, of another setting."""
    of = {row.dataset for line in lines for row, own in zip(line.rows, line.fields, strict=True) if name in own}
    return [
        place
        for place, line in enumerate(lines)
        if not _is_of_data(name) or not of.isdisjoint(dataset for dataset, _ in line.settings)
    ]


def list_names(lines: Sequence[Line]) -> list[str]:
    """List the names of all settings of the lines, but for their data; first those that every row has."""
    names = (name for line in lines for fields in line.fields for name in fields)
    return [name for name in dict.fromkeys((*RECIPE, *COMPUTED, *names)) if name != "data"]


def name_lines(lines: Sequence[Line]) -> list[str]:
    """Name each line by method and size; if that is not unique, also by the fields in which equal names differ."""
    labels, own = [line.label for line in lines], [list_method_fields(line.row) for line in lines]
    alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for label, fields in zip(labels, own, strict=True):
        alike[label].append(fields)
    names: list[str] = []
    for label, fields in zip(labels, own, strict=True):
        others = alike[label]
        told = [f"{k}={format_value(v)}" for k, v in fields.items() if any(other.get(k, v) != v for other in others)]
        names.append(label + (f" ({', '.join(told)})" if told else ""))
    return names


def describe_tried(names: Sequence[str], lines: Sequence[Line]) -> list[str]:
    """Describe what was chosen on val, and from which values; which lines tell of no search, where others do."""
    of_text: dict[str, list[str]] = defaultdict(list)
    for name, line in zip(names, lines, strict=True):
        tried: dict[str, list[Any]] = defaultdict(list)
        for row in line.rows:
            for key, values in list_tried(row).items():
                tried[key] += values
        in_order = {key: dict.fromkeys(map(format_tried, sorted(values, key=_rank))) for key, values in tried.items()}
        texts = [f"{key} out of {name_some(values, MOST_TRIED)}" for key, values in in_order.items()]
        of_text["; ".join(cut(texts))].append(name)
    unsearched = of_text.pop("", [])
    notes = [f"chosen on val: {text}" + f" ({_name_all(of)})" * (len(of) < len(lines)) for text, of in of_text.items()]
    return [*notes, f"no search recorded: {_name_all(unsearched)}"] if notes and unsearched else notes


def _name_all(names: Sequence[str]) -> str:
    """Name lines, each name once."""
    return ", ".join(dict.fromkeys(names))


def _describe_data(line: Line, lines: Sequence[Line]) -> list[str]:
    """Name the data of tasks on which lines have other data than each other."""
    words = []
    for place, setting in line.settings.items():
        others = {other.settings[place].row.data_digest for other in lines if place in other.settings}
        if len(others) > 1:
            words.append(f"data {(setting.row.data_digest or UNKNOWN)[:8]}")
    return list(dict.fromkeys(words))
