"""Join settings on several tasks into the lines of a report, and say in what the lines differ."""

import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vision_peft.printable import name_some
from vision_peft.protocols import PROTOCOLS
from vision_peft.results.averages import Groups, Mean, average_tasks_over_seeds, list_tasks
from vision_peft.results.labels import cut, format_value
from vision_peft.results.row import Row
from vision_peft.results.settings import (
    COMPUTED,
    RECIPE,
    TUNED,
    UNKNOWN,
    Metric,
    Setting,
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
        return [list_settings(row) for row in self.rows]

    def describe(self, name: str) -> str:
        """Describe one of the settings; a range if it was chosen for each task, empty if there is nothing to say."""
        found = [fields.get(name) for fields in self.fields]
        values = {json.dumps(value): value for value in found if value not in (None, UNSAID.get(name))}
        if not values:
            return ""
        in_order = sorted(values.values(), key=_rank)
        texts = [f"{value:g}" if isinstance(value, float) else format_value(value) for value in in_order]
        text = texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]} by task"
        return WORDS[name].format(text) if name in WORDS else f"{format_value(name)}={text}"

    def means(self, dataset: str, columns: Sequence[str], groups: Groups, metric: Metric) -> dict[str, Mean]:
        """Average over the tasks of a dataset; over a part of `columns` only if that part is a whole benchmark."""
        tasks = {str(task): setting for (name, task), setting in self.settings.items() if name == dataset}
        wanted = list_tasks(groups)
        if wanted and set(wanted) <= tasks.keys():
            tasks = {task: tasks[task] for task in wanted}
        means = average_tasks_over_seeds(tasks, groups, metric) if tasks else {}
        whole = tasks.keys() == set(columns) or tasks.keys() == set(wanted)
        return {label: mean for label, mean in means.items() if whole or not label.startswith("mean of")}


def _rank(value: Any) -> tuple[bool, float, str]:
    """Return what sorts values of any types: numbers first, by size, then all else as text."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else 0, format_value(value)


def make_lines(settings: Sequence[Setting]) -> list[Line]:
    """Join settings into lines of the table; fewer settings may differ where a line would have a task twice."""
    lines = _join(settings, [("data", "n_train", *TUNED), ("data", "n_train"), ("data",)])
    return sorted(
        lines, key=lambda line: (line.row.backbone, PROTOCOLS.index(line.row.protocol), line.row.params_trained)
    )


def _join(settings: Sequence[Setting], frees: Sequence[tuple[str, ...]]) -> list[Line]:
    groups: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        row = setting.row
        fixed = {name: value for name, value in list_settings(row).items() if name not in frees[0]}
        groups[json.dumps([row.methods, row.backbone, row.protocol, fixed], sort_keys=True)].append(setting)
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
    for name in list_names(lines):
        words = [line.describe(name) for line in lines]
        by_task = any("by task" in word for word in words)
        if len(set(words)) == 1 and not by_task:
            shared += filter(None, [] if name in COMPUTED else words[:1])  # the notes tell where all was computed
        elif name != "n_train" or not by_task:
            for recipe, word in zip(recipes, words, strict=True):
                recipe += filter(None, [word])
    for line, recipe in zip(lines, recipes, strict=True):
        recipe += _describe_data(line, lines)
    if any(recipes):
        columns["recipe"] = [", ".join(cut(recipe)) for recipe in recipes]
    return columns, cut(shared)


def list_names(lines: Sequence[Line]) -> list[str]:
    """List the names of all settings of the lines, but for their data; first those that every row has."""
    names = (name for line in lines for fields in line.fields for name in fields)
    return [name for name in dict.fromkeys((*RECIPE, *COMPUTED, *names)) if name != "data"]


def name_lines(lines: Sequence[Line]) -> list[str]:
    """Name each line by method and size; if that is not unique, also by the fields in which equal names differ."""
    own = [list_method_fields(line.row) for line in lines]
    names: list[str] = []
    for line, fields in zip(lines, own, strict=True):
        alike = [other for twin, other in zip(lines, own, strict=True) if twin.row.label == line.row.label]
        told = [f"{k}={format_value(v)}" for k, v in fields.items() if any(other.get(k, v) != v for other in alike)]
        names.append(line.row.label + (f" ({', '.join(told)})" if told else ""))
    return names


def describe_tried(names: Sequence[str], lines: Sequence[Line]) -> list[str]:
    """Describe what was chosen on val, and from which values; which lines tell of no search, where others do."""
    of_text: dict[str, list[str]] = defaultdict(list)
    for name, line in zip(names, lines, strict=True):
        tried: Mapping[str, dict[str, None]] = defaultdict(dict)
        for row in line.rows:
            for key, values in (row.tried or {}).items():
                tried[key] |= dict.fromkeys(map(format_value, values))
        texts = [f"{key} out of {name_some(values, MOST_TRIED)}" for key, values in tried.items()]
        of_text["; ".join(cut(texts))].append(name)
    unsearched = of_text.pop("", [])
    notes = [f"chosen on val: {text}" + f" ({', '.join(of)})" * (len(of) < len(lines)) for text, of in of_text.items()]
    return [*notes, f"no search recorded: {', '.join(unsearched)}"] if notes and unsearched else notes


def _describe_data(line: Line, lines: Sequence[Line]) -> list[str]:
    """Name the data of tasks on which lines have other data than each other."""
    words = []
    for place, setting in line.settings.items():
        others = {other.settings[place].row.data_digest for other in lines if place in other.settings}
        if len(others) > 1:
            words.append(f"data {(setting.row.data_digest or UNKNOWN)[:8]}")
    return list(dict.fromkeys(words))
