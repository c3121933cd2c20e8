"""Arrange rows as the data of an HTML report: settings with their cells, panels with their lines, tables by task."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vision_peft.printable import printable
from vision_peft.results.averages import Groups
from vision_peft.results.commands import list_experiments
from vision_peft.results.figures import describe_figure, describe_metric, format_number, list_figures
from vision_peft.results.labels import disambiguate, find_path, get_panel
from vision_peft.results.plots.axes import choose_axis
from vision_peft.results.plots.series import REFERENCES, build_references, build_series
from vision_peft.results.report import TEXTS, Report, make_report
from vision_peft.results.row import Row
from vision_peft.results.selection import OF_DATA, describe_panel, name_data, select_measured
from vision_peft.results.settings import Setting
from vision_peft.results.table import format_bytes, format_count, format_seconds, read_number

Data = dict[str, Any]  # what JSON holds
Cell = list[Any] | None  # number to sort by (or text), text to show, of figures also the standard deviation
PROTOCOL_WORDS = {
    "val_select": "val chooses the epoch",
    "val_select_retrain": "val chooses, then train + val",
    "last_epoch": "last epoch, nothing chosen",
    "best_test": "epoch chosen on test",
}
MOST_EXPERIMENTS = 5  # that a setting may name
PATH_WORDS = {"penalty": ("penalties", "weight_decay"), "k": ("k", "k")}  # many of a path, and its key in `tried`
# Column -> its head, and what it is
HEADS = {
    "method": ("Method", ""),
    "task": ("Task", ""),
    "backbone": ("Backbone", ""),
    "size": ("Input", ""),
    "seeds": ("Seeds", "seeds that finished, of those that were started"),
    "val": ("On val", "the figure that chose the epoch, on val"),
    "step": ("Step", "milliseconds of a training step, median"),
    "rate": ("Items / s", "images or clips a second in training"),
    "memory": ("Peak memory", "highest of the seeds, in training"),
    "flops": ("Inference FLOPs", "of one item, attention included; a multiply-add counts two"),
    "bytes": ("Adapter", "bytes of the adapter folder"),
    "time": ("Train time", "mean of a run, evaluation on test excluded"),
    "device": ("Device", ""),
    "trained": ("Trained", "parameters that train, without the head"),
    "stored": ("Stored", "parameters that the adapter stores, without the head"),
    "head": ("Head", "parameters of the head"),
    "total": ("Backbone", "parameters of the backbone, without the head"),
    "share": ("Share trained", "trained parameters and head, of backbone and head"),
}
SHARED = {"backbone": "backbone", "img_size": "size", "num_frames": "size"}  # by all settings, else in a column
TEXT_COLUMNS = ("method", "task", "backbone", "size", "device")
COSTS = ("method", "task", "step", "rate", "memory", "flops", "bytes", "time", "device")
COUNTS = ("method", "task", "trained", "stored", "head", "total", "share", "bytes")


def split_kinds(rows: Sequence[Row]) -> list[list[Row]]:
    """Split rows by kind of task and by the words and units of its figures, which no table mixes."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[json.dumps([row.task_kind, row.metric, row.figure_words])].append(row)
    return list(kinds.values())


def make_kind(rows: Sequence[Row], suites: Mapping[str, Groups]) -> tuple[Data, list[Setting]]:
    """Arrange rows of one kind of task; gives the data and its settings, in the order of the data's.

    NothingMeasuredError if none of the rows has the figure that chose on val, on test.
    """
    metric = rows[0].metric
    report = make_report(rows, metric, suites)
    settings = sorted(select_measured(rows, metric, "report").measured, key=_order)
    labels = disambiguate([setting.row.label for setting in settings], [[setting] for setting in settings])
    names = [describe_panel(setting.row) for setting in settings]
    figures = [name for name in list_figures(rows[0]) if any(s.mean(name) is not None for s in settings)]
    shared = [key for key in SHARED if len({str(name.get(key)) for name in names}) == 1]
    where = dict.fromkeys(column for key, column in SHARED.items() if key not in shared)
    keys = [*HEADS, *(f"figure {name}" for name in figures)]
    cells = [_make_cells(setting, label, figures) for setting, label in zip(settings, labels, strict=True)]
    results = ["method", "task", *keys[len(HEADS) :], "val", "seeds", *where]
    return {
        "title": describe_metric([rows[0]], metric),
        "kind": rows[0].task_kind,
        "lower": rows[0].lower_is_better,
        "shared": ", ".join(names[0][key] for key in shared if key in names[0]),
        "keys": keys,
        "heads": [*map(list, HEADS.values()), *([describe_figure(rows[0], name), "on test"] for name in figures)],
        "texts": [keys.index(key) for key in TEXT_COLUMNS],
        "figures": [keys.index(f"figure {name}") for name in figures],
        "tables": {name: _choose(of, keys, cells) for name, of in zip(TABLES, (results, COSTS, COUNTS), strict=True)},
        "settings": [
            {"cells": [own[key] for key in keys], **_describe(setting)}
            for setting, own in zip(settings, cells, strict=True)
        ],
        "panels": _make_panels(settings),
        "report": {
            "title": report.title,
            "columns": [[printable(name), name not in TEXTS] for name in report.columns],
            "cells": _list_lines(report),
        },
        "notes": report.notes,
    }, settings


TABLES = ("results", "costs", "parameters")


def _list_lines(report: Report) -> list[list[Cell]]:
    """List the lines of the Markdown report, numbers with what they are sorted by."""
    columns = [
        [_text(text) if name in TEXTS else [read_number(text), printable(text)] for text in column]
        for name, column in report.columns.items()
    ]
    return [[*line] for line in zip(*columns, strict=True)]


def _choose(columns: Sequence[str], keys: Sequence[str], cells: Sequence[Mapping[str, Cell]]) -> list[int]:
    """Choose the columns that have a value in a row."""
    return [keys.index(key) for key in columns if any(own[key] is not None for own in cells)]


def _make_cells(setting: Setting, label: str, figures: Sequence[str]) -> dict[str, Cell]:
    row = setting.row
    panel = describe_panel(row)
    total = row.params_backbone + row.params_head
    peaks = [each.peak_memory_mb for each in setting.rows if each.peak_memory_mb is not None]
    started = len(setting.rows) + len(setting.lost)
    seeds = f"{len(setting.rows)}" if started == len(setting.rows) else f"{len(setting.rows)} of {started}"
    val = "val_top1" if row.metric == "top1" else "val_figure"
    share = 100 * (row.params_trained + row.params_head) / total if total else None
    return {
        "method": _text(label),
        "task": _text(name_data(panel)),
        "backbone": _text(row.backbone),
        "size": _text(", ".join(panel[name] for name in ("img_size", "num_frames") if name in panel)),
        "seeds": [len(setting.rows), seeds],
        "val": _figure(setting, val, ""),
        "step": _number(setting.mean("step_ms"), lambda ms: f"{ms:.3g} ms" if ms < 1000 else f"{ms:.0f} ms"),
        "rate": _number(setting.mean("images_per_s"), lambda rate: f"{rate:.3g}" if rate < 1000 else f"{rate:.0f}"),
        "memory": _number(max(peaks) * 1e6 if peaks else None, format_bytes),
        "flops": _number(setting.mean("flops_forward"), lambda number: format_count(number).replace(" ", " ") + "FLOP"),
        "bytes": _number(setting.mean("adapter_bytes"), format_bytes),
        "time": _number(setting.mean("train_seconds"), format_seconds),
        "device": _text(" and ".join(dict.fromkeys(f"{each.device}, {each.precision}" for each in setting.rows))),
        "trained": _number(row.params_trained, format_count),
        "stored": _number(row.params_stored, format_count),
        "head": _number(row.params_head, format_count),
        "total": _number(row.params_backbone, format_count),
        "share": _number(share, lambda value: f"{value:.2f} %"),
        **{f"figure {name}": _figure(setting, name, "*" * (row.protocol == "best_test")) for name in figures},
    }


def _text(text: str) -> Cell:
    return [printable(text)] * 2


def _number(value: float | None, write: Callable[[float], str]) -> Cell:
    return None if value is None else [shorten(value), write(value)]


def _figure(setting: Setting, name: str, mark: str) -> Cell:
    mean, std = setting.mean(name), setting.std(name)
    if mean is None:
        return None
    spread = "" if std is None else f" ± {format_number(std, mean)}"
    return [shorten(mean), f"{format_number(mean)}{spread}{mark}", std and shorten(std)]


def shorten(value: float) -> float | None:
    """Return a number with the digits that a picture needs; None where it is too large for one."""
    return value if isinstance(value, int) else float(f"{value:.6g}") if math.isfinite(value) else None


def _describe(setting: Setting) -> Data:
    """Describe what a setting may be filtered by: its protocol, and the budget that it had."""
    row = setting.row
    return {
        "name": printable(row.method),  # as it is typed
        "protocol": row.protocol,
        "epochs": f"{row.epochs} epoch{'s' * (row.epochs != 1)}",
        "tried": _describe_tried(setting),
        "early": row.setting is None,  # a row of an earlier version
        "reused": any(each.reused_features for each in setting.rows),
        "lost": setting.describe_lost(),
        "experiments": list_experiments(setting.rows)[:MOST_EXPERIMENTS],
    }


def _describe_tried(setting: Setting) -> str:
    """Describe how many values were compared: penalties of a head, k of k-NN, then what a search tried."""
    path = find_path(setting.row)
    watched = "test" if setting.row.protocol == "best_test" else "val"
    figure = f"{watched}_{setting.row.metric}"
    counts = {sum(figure in entry for entry in each.curve) for each in setting.rows if path} - {0}
    words, own = [], None
    if path and counts:
        many, own = PATH_WORDS[path]
        words = [f"{_span(counts)} {path if counts == {1} else many} on {watched}"]
    tried: dict[str, set[int]] = defaultdict(set)  # seeds may have had searches of their own
    for each in setting.rows or setting.lost:
        for key, values in (each.tried or {}).items():
            tried[key.rpartition(".")[2]].add(len(values))
    words += [f"{key}: {_span(found)}" for key, found in tried.items() if key != own][:4]
    return f"tried {', '.join(words)}" if words else ""


def _span(counts: set[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def _order(setting: Setting) -> tuple[Any, ...]:
    row = setting.row
    return row.dataset, row.task or "", row.backbone, str(row.img_size), row.protocol, row.params_trained


def _make_panels(settings: Sequence[Setting]) -> list[Data]:
    """Make the pictures: settings that are compared side by side, joined into lines."""
    numbers = {id(setting): number for number, setting in enumerate(settings)}
    of_panel: dict[tuple[Any, ...], list[Setting]] = defaultdict(list)
    for setting in settings:
        of_panel[get_panel(setting.row)].append(setting)
    colours: dict[str, int] = {}
    panels = []
    for panel in of_panel.values():
        about = describe_panel(panel[0].row)
        shown = [printable(text) for key, text in about.items() if key not in OF_DATA]
        lines = []
        for label, points in build_series(panel, choose_axis("trained"), settings):
            colours.setdefault(label, len(colours))
            lines.append(
                {"label": printable(label), "colour": colours[label], "points": [numbers[id(each)] for each in points]}
            )
        for label, points in build_references(panel, choose_axis("trained"), settings):
            colours.setdefault(label, len(colours))
            method = points[0].row.method if points[0].row.method in REFERENCES else "other"
            place = {"points": [numbers[id(points[0])]], "reference": method}
            lines.append({"label": printable(label), "colour": colours[label], **place})
        panels.append({"name": printable(name_data(about)), "about": shown, "lines": lines})
    return panels
