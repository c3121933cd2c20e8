"""Write rows as one HTML page that loads nothing: tables, an interactive curve, and every setting in detail.

The page is a template with its own style and script, and the data as JSON in it. The script makes every element itself
and writes text as text, so that no name in a row is ever read as markup; a policy in the page allows no other script,
no style and no address but its own.
"""

import base64
import hashlib
import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.results.averages import Groups
from vision_peft.results.figures import describe_metric
from vision_peft.results.html_data import Data, make_kind, split_kinds
from vision_peft.results.html_details import (
    Picture,
    list_facts,
    list_hardest,
    list_runs,
    sum_confusion,
    trace_curves,
)
from vision_peft.results.row import Row
from vision_peft.results.selection import NothingMeasuredError, describe_left_out
from vision_peft.results.settings import Setting

MOST_BYTES = 1_000_000  # of the page
CORE = 0.6  # share of it that tables and curves may take, before any detail
SCRIPTS = ("dom.js", "chart.js", "curves.js", "tables.js", "details.js", "start.js")
_FOLDER = resources.files(__package__ or "vision_peft.results").joinpath("page")
Published = Mapping[str, Mapping[str, str]]  # experiment -> what the header of its file says


def make_page(
    rows: Sequence[Row],
    suites: Mapping[str, Groups] | None = None,
    published: Callable[[str], Mapping[str, str] | None] | None = None,
    without_row: int = 0,
    picture: Picture | None = None,
) -> str:
    """Write `rows` as a page of at most `MOST_BYTES` bytes; what does not fit is left out, and a note says so.

    Args:
        rows: of runs, of any kinds of task.
        suites: by dataset, the groups of tasks that a benchmark averages.
        published: what was published of an experiment, by its name; None where there is no such experiment.
        without_row: unfinished runs of which nothing is known.
        picture: thumbnail of an item of test; without it there are none.

    Raises:
        ValueError: no row has a figure on test.
    """
    kinds, problems = [], []
    for own in split_kinds(rows):
        try:
            kinds.append(make_kind(own, suites or {}))
        except NothingMeasuredError as error:
            problems.append(f"no table of {describe_metric(own, own[0].metric)}: {error.why}")
    if not kinds:
        raise ValueError(f"nothing to report: {'; '.join(problems)}")
    notes = [*problems, *describe_left_out([], 0, without_row)]
    room = MOST_BYTES - len(_fill("", {"title": ""}).encode()) - 2000
    found = len(kinds)
    kinds, left_out = _cut(kinds, int(CORE * room))
    if left_out:
        notes.append(f"{left_out} more settings do not fit on a page of 1 MB: give fewer runs")
    if fewer := found - len(kinds):
        notes.append(f"{fewer} more kinds of figures do not fit on a page of 1 MB: give the runs of one kind")
    data: Data = {"title": _title(kinds), "notes": notes, "kinds": [kind for kind, _ in kinds]}
    data["published"] = _list_published(data["kinds"], published)
    _add_details(data, kinds, room, picture)
    return _fill(_to_json(data), {"title": html.escape(printable(data["title"]))})


def _title(kinds: Sequence[tuple[Data, list[Setting]]]) -> str:
    settings = [setting for _, own in kinds for setting in own]
    names = dict.fromkeys(panel["name"] for kind, _ in kinds for panel in kind["panels"])
    on = ", ".join(names) if len(names) <= 4 else f"{len(names)} tasks"
    runs = sum(len(setting.rows) for setting in settings)
    return f"{on}: {_count(len(settings), 'setting')}, {_count(runs, 'run')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _cut(kinds: list[tuple[Data, list[Setting]]], room: int) -> tuple[list[tuple[Data, list[Setting]]], int]:
    """Leave out the last settings of each kind, then the last kinds, until their data fit; gives how many settings."""
    total = sum(len(settings) for _, settings in kinds)
    share = 1.0
    cut = kinds
    while _measure([kind for kind, _ in cut]) > room and share > 0.001:
        share *= 0.8
        cut = [_keep_first(*kind, max(1, int(share * len(kind[1])))) for kind in kinds]
    while len(cut) > 1 and _measure([kind for kind, _ in cut]) > room:
        cut = cut[:-1]
    return cut, total - sum(len(settings) for _, settings in cut)


def _keep_first(kind: Data, settings: list[Setting], number: int) -> tuple[Data, list[Setting]]:
    panels = []
    for panel in kind["panels"]:
        lines = [line | {"points": [point for point in line["points"] if point < number]} for line in panel["lines"]]
        if lines := [line for line in lines if line["points"]]:
            panels.append(panel | {"lines": lines})
    report = kind["report"] | {"cells": kind["report"]["cells"][:number]}
    fewer = {"settings": kind["settings"][:number], "panels": panels, "report": report, "notes": kind["notes"][:number]}
    return kind | fewer, settings[:number]


def _add_details(data: Data, kinds: Sequence[tuple[Data, list[Setting]]], room: int, picture: Picture | None) -> None:
    """Add details to settings as long as there is room: commands of all first, then facts, curves, and so on."""
    left = room - _measure(data)
    missing: dict[str, int] = {}
    parts: dict[str, Callable[[Setting], Data | None]] = {
        "commands": list_runs,
        "fields": list_facts,
        "learning curves": trace_curves,
        "confusion matrices": sum_confusion,
        "hardest items": list_hardest,
    }
    if picture:
        parts["thumbnails"] = lambda setting: list_hardest(setting, picture)
    for name, make in parts.items():
        for kind, settings in kinds:
            for entry, setting in zip(kind["settings"], settings, strict=True):
                if (part := make(setting)) is None:
                    continue
                size = _measure(part)
                if size > left:
                    missing[name] = missing.get(name, 0) + 1
                    continue
                left -= size
                entry |= part
    data["notes"] += [
        f"{name} of {_count(number, 'setting')} do not fit on a page of 1 MB: give fewer runs"
        for name, number in missing.items()
    ]


def _list_published(kinds: Sequence[Data], published: Callable[[str], Mapping[str, str] | None] | None) -> list[Data]:
    """List what was published of the experiments that runs name in their commands."""
    names = dict.fromkeys(name for kind in kinds for entry in kind["settings"] for name in entry["experiments"])
    found = {name: published(name) for name in names} if published else {}
    return [{"name": name, **about} for name, about in found.items() if about is not None]


def _measure(data: Any) -> int:
    return len(_to_json(data))


def _to_json(data: Any) -> str:
    """Return JSON that ends no element of HTML, whatever stands in it."""
    text = json.dumps(_clean(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _clean(value: Any) -> Any:
    """Have every text show what controls a terminal or the direction of letters by its number, on one line."""
    if isinstance(value, str):
        return printable(value, LONGEST_LINE)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def _fill(data: str, texts: Mapping[str, str]) -> str:
    """Put style, script, data and texts into the template, with the policy that allows no others."""
    style = _read("page.css")
    script = '"use strict";\n' + "".join(map(_read, SCRIPTS))
    policy = [
        "default-src 'none'",
        f"script-src {_hash(script)}",
        f"style-src {_hash(style)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    page = _read("page.html")
    parts = {"policy": "; ".join(policy), **texts, "style": style, "script": script, "data": data}
    before, *places = page.split("{{")
    filled = [before]
    for place in places:
        name, _, after = place.partition("}}")
        filled += [parts[name], after]
    return "".join(filled)


def _read(name: str) -> str:
    return _FOLDER.joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
