"""Average a figure over tasks: a row for each seed of a method, which is drawn as those of one task are."""

import dataclasses
import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from vision_peft.printable import name_some
from vision_peft.results.figures import get_figure
from vision_peft.results.report_lines import Line, Place, make_lines, name_lines
from vision_peft.results.row import Row
from vision_peft.results.selection import describe_lost
from vision_peft.results.settings import COMPUTED, TUNED, Metric, Setting, group_by_seed

COSTS = ("params_trained", "params_stored", "flops_forward", "adapter_bytes")
COSTS_OF_MACHINE = ("step_ms", "peak_memory_mb", "images_per_s")  # that other machines do not share
SHARED = ("backbone", "img_size", "num_frames", "protocol")  # by what is averaged
MOST_NAMED = 8  # methods that lack a task


def average_over_tasks(rows: Sequence[Row], metric: Metric) -> tuple[list[Row], list[str]]:
    """Average `metric` and the costs of every method over all tasks of `rows`, seed by seed.

    Only methods count that have every task with the same seeds: means over different tasks do not compare. Tasks whose
    figures have another unit are averaged on their own.

    Returns:
        The rows, whose dataset is "mean of 5 tasks" and which hold no other figure, those of seeds that have not
        finished among them; notes on what is left out.

    Raises:
        ValueError: there is one task, or no method has all.
    """
    found = group_by_seed(rows)
    settings = [setting for setting in found if setting.mean(metric) is not None]
    groups: dict[Any, list[Line]] = defaultdict(list)
    for line in _split_units(make_lines(settings), metric):
        unit = line.row.task_kind, line.row.figure_words.get(metric)
        groups[str([unit, *(getattr(line.row, name) for name in SHARED)])].append(line)
    means: list[Row] = []
    notes = describe_lost([setting for setting in found if not setting.rows])
    for lines in groups.values():
        places = list(dict.fromkeys(place for line in lines for place in line.settings))
        lacking = []
        for name, line in zip(name_lines(lines), lines, strict=True):
            seeds = [{row.seed for row in line.settings[at].rows} for at in places if at in line.settings]
            if len(seeds) < len(places) or any(own != seeds[0] for own in seeds):
                lacking.append(name)
            elif len(places) > 1:
                own = [_average(line, places, seed, metric) for seed in sorted(seeds[0])]
                means += [*own, *_list_lost(line, own[0])]
        if lacking and len(places) > 1:
            names = name_some(list(dict.fromkeys(lacking)), MOST_NAMED)
            notes.append(f"not in the mean of {len(places)} tasks, as tasks or seeds are missing: {names}")
    if not means:
        raise ValueError("; ".join(["no mean over tasks: every method lacks some, or there is only one task", *notes]))
    return means, notes


def _average(line: Line, places: Sequence[Place], seed: int, metric: Metric) -> Row:
    rows = [row for at in places for row in line.settings[at].rows if row.seed == seed]
    mean = statistics.fmean(value for row in rows if (value := get_figure(row, metric)) is not None)
    first = rows[0]
    figures: dict[str, Any] = dict.fromkeys(("top1", "top5", "mean_per_class"))
    costs: dict[str, Any] = {name: _average_cost([getattr(row, name) for row in rows]) for name in COSTS}
    machines = {(row.device, *(getattr(row, name) for name in COMPUTED)) for row in rows}
    for name in COSTS_OF_MACHINE:
        costs[name] = _average_cost([getattr(row, name) for row in rows]) if len(machines) == 1 else None
    own = {
        key: value
        for key, value in (first.settings or {}).items()
        if not key.startswith("data.") and all((row.settings or {}).get(key) == value for row in rows)
    }
    chosen = [len({row.sizes[place] for row in rows}) > 1 for place in range(len(first.methods))]
    by_task: dict[str, Any] = {name: None for name in TUNED if len({getattr(row, name) for row in rows}) > 1}
    return dataclasses.replace(
        first,
        methods=[
            {"name": method["name"], "fields": {}} if varies else method  # a size that val chose for each task is none
            for method, varies in zip(first.methods, chosen, strict=True)
        ],
        **(figures | costs | by_task | ({metric: mean} if metric in figures else {})),
        figures={} if metric in figures else {metric: mean},
        dataset=f"mean of {len(places)} tasks",
        task=None,
        setting=f"{first.setting} and those of the other tasks",
        settings=own,
        device=" and ".join(dict.fromkeys(row.device for row in rows)),
        data_digest=_join_digests([row.data_digest for row in rows]),
        n_train=sum(row.n_train for row in rows),
        n_test=sum(row.n_test for row in rows),
        correct=None,
    )


def _split_units(lines: Sequence[Line], metric: Metric) -> list[Line]:
    """Split lines by kind of task and by the unit of `metric`."""
    split = []
    for line in lines:
        of: dict[Any, dict[Place, Setting]] = defaultdict(dict)
        for place, setting in line.settings.items():
            of[setting.row.task_kind, setting.row.figure_words.get(metric)][place] = setting
        split += [Line(settings) for settings in of.values()]
    return split


def _list_lost(line: Line, mean: Row) -> list[Row]:
    """List a row for each seed that has not finished on any task, of the setting of `mean`."""
    lost = {row.seed: row for setting in line.settings.values() for row in setting.lost}
    nothing: dict[str, Any] = {"top1": None, "figures": {}}
    return [
        dataclasses.replace(mean, seed=seed, status=row.status, updates=row.updates, **nothing)
        for seed, row in sorted(lost.items())
    ]


def _join_digests(digests: Sequence[str | None]) -> str | None:
    """Digest the data of all tasks; None where one is not known."""
    return None if None in digests else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _average_cost(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return known[0] if len(set(known)) == 1 else statistics.fmean(known)
