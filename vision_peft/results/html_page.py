"""Write rows as one HTML page that loads nothing: tables, an interactive curve, and every setting in detail.

The page is a template with its own style and script, and the data in it as JSON, packed by gzip, for rows say much the
same. The script makes every element itself and writes text as text, so that no name in a row is ever read as markup; a
policy in the page allows no other script, no style and no address but its own.
"""

import base64
import bisect
import gzip
import hashlib
import html
import json
from collections import Counter
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
            data, settings = make_kind(own, suites or {})
            kinds.append((_clean(data), settings))
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
    shown = [data for data, _ in kinds]
    top = _clean({"title": _title(kinds), "notes": notes, "published": _list_published(shown, published)})
    page = _add_details(top | {"kinds": shown}, [own for _, own in kinds], room, picture)
    return _fill(_pack(page), {"title": html.escape(top["title"])})


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
    most = max(len(settings) for _, settings in kinds)

    def keep(number: int) -> list[tuple[Data, list[Setting]]]:
        return [_keep_first(*kind, max(1, number * len(kind[1]) // most)) for kind in kinds]

    def measure(cut: list[tuple[Data, list[Setting]]]) -> int:
        return len(_pack([kind for kind, _ in cut]))

    cut = kinds if measure(kinds) <= room else keep(_find_most(most, room, lambda number: measure(keep(number))))
    cut = cut[: _find_most(len(cut), room, lambda number: measure(cut[:number]))]
    return cut, total - sum(len(settings) for _, settings in cut)


def _find_most(number: int, room: int, measure: Callable[[int], int]) -> int:
    """Find the largest of 1, 2, ... `number` whose measure is at most `room`; 1 where none is."""
    if measure(number) <= room:
        return number
    return max(1, bisect.bisect_left(range(1, number), room + 1, key=measure))


def _keep_first(kind: Data, settings: list[Setting], number: int) -> tuple[Data, list[Setting]]:
    panels = []
    for panel in kind["panels"]:
        lines = [line | {"points": [point for point in line["points"] if point < number]} for line in panel["lines"]]
        if lines := [line for line in lines if line["points"]]:
            panels.append(panel | {"lines": lines})
    report = kind["report"] | {"cells": kind["report"]["cells"][:number]}
    fewer = {"settings": kind["settings"][:number], "panels": panels, "report": report, "notes": kind["notes"][:number]}
    return kind | fewer, settings[:number]


def _add_details(data: Data, settings: Sequence[Sequence[Setting]], room: int, picture: Picture | None) -> Data:
    """Add details to the settings of each kind while there is room: commands of all, then facts, curves, and so on."""
    makers: dict[str, Callable[[Setting], Data | None]] = {
        "commands": list_runs,
        "fields": list_facts,
        "learning curves": trace_curves,
        "confusion matrices": sum_confusion,
        "hardest items": list_hardest,
    }
    if picture:
        makers["thumbnails"] = lambda setting: list_hardest(setting, picture)
    parts = [
        (name, kind, number, _clean(part))
        for name, make in makers.items()
        for kind, own in enumerate(settings)
        for number, setting in enumerate(own)
        if (part := make(setting)) is not None
    ]

    def add(count: int) -> Data:
        filled = [[{**entry} for entry in kind["settings"]] for kind in data["kinds"]]
        for _, kind, number, part in parts[:count]:
            filled[kind][number] |= part
        missing = Counter(name for name, *_ in parts[count:])
        notes = [
            f"{name} of {_count(number, 'setting')} do not fit on a page of 1 MB: give fewer runs"
            for name, number in missing.items()
        ]
        kinds = [kind | {"settings": own} for kind, own in zip(data["kinds"], filled, strict=True)]
        return data | {"kinds": kinds, "notes": [*data["notes"], *notes]}

    return add(_find_most(len(parts), room, lambda count: len(_pack(add(count)))))


def _list_published(kinds: Sequence[Data], published: Callable[[str], Mapping[str, str] | None] | None) -> list[Data]:
    """List what was published of the experiments that runs name in their commands."""
    names = dict.fromkeys(name for kind in kinds for entry in kind["settings"] for name in entry["experiments"])
    found = {name: published(name) for name in names} if published else {}
    return [{"name": name, **about} for name, about in found.items() if about is not None]


def _pack(data: Any) -> str:
    """Return JSON, packed by gzip, as base64: letters and digits, which end no element of HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


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
    script = _write_script()
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


def _write_script() -> str:
    """Write the script: no module, for browsers that cannot read the rest still read `failure.js`, which says so."""
    body = "".join(map(_read, SCRIPTS))
    return f"{_read('failure.js')}(async () => {{\n{body}}})().catch(showFailure);\n"


def _read(name: str) -> str:
    return _FOLDER.joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
