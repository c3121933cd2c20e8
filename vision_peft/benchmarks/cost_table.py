"""Write measured costs: aligned for a terminal, in Markdown, as CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vision_peft.benchmarks.costs import FLOOR, PLAIN, CostGroup, Costs, find_figures
from vision_peft.printable import printable

# What the figures mean, by a line each.
LEGEND = (
    f"{FLOOR}: the frozen backbone, where the gradient comes to the tokens of the first block and the head trains",
    f"{PLAIN}: full fine-tuning by the loop of timm's train.py; its forward is plain timm inference, as the floor's",
    "step: a whole update; forward: inference without gradient",
    "merged: inference after vp.merge and vp.shorten_last_block, where it merges",
    "ms: median and minimum over the rounds; ratios: medians over the rounds of times of the same round",
    "GFLOP: of matrix products, convolutions and attention, for the whole batch; a multiply-add counts two",
    "saved: bytes that the forward pass leaves in memory for the backward pass; units: in B·N·D numbers a block",
    "peak: most bytes at once in an update, model and optimiser included; on a CPU those of tensors",
    "adapter: the tensors of the adapter folder, head included",
)


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    group: str  # word above the names of neighbouring columns
    name: str
    key: str  # in `find_figures`
    write: Callable[[Any], str]


def _number(value: float) -> str:
    """Write about four digits."""
    places = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{places}f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


TIMES = (
    Column("step", "ms", "step_ms", _number),
    Column("step", "min", "step_min_ms", _number),
    Column("step", "/ floor", "step_over_floor", _ratio),
    Column("step", "/ full", "step_over_full", _ratio),
    Column("step", "images/s", "images_per_s", _number),
    Column("forward", "ms", "forward_ms", _number),
    Column("forward", "min", "forward_min_ms", _number),
    Column("forward", "/ timm", "forward_over_timm", _ratio),
    Column("merged", "ms", "merged_ms", _number),
    Column("merged", "/ timm", "merged_over_timm", _ratio),
)
COUNTS = (
    Column("trained", "parameters", "trained", lambda value: f"{value:,}"),
    Column("GFLOP", "forward", "gflops_forward", _number),
    Column("GFLOP", "step", "gflops_step", _number),
    Column("GFLOP", "/ floor", "gflops_step_over_floor", _ratio),
    Column("saved", "MB", "saved_mb", _number),
    Column("saved", "- floor", "saved_over_floor_mb", lambda value: f"{value:+,.1f}"),
    Column("saved", "units", "saved_units", lambda value: f"{value:.2f}"),
    Column("peak", "MB", "peak_mb", _number),
    Column("adapter", "MB", "adapter_mb", _number),
    Column("", "attention", "attention", str),
)


def format_costs(costs: Costs) -> str:
    """Write all groups for a terminal of 120 columns."""
    lines = [f"{costs.device}, {costs.clock}"]
    for group in costs.groups:
        lines += ["", _title(group)]
        for columns in (TIMES, COUNTS):
            lines += ["", *_align(group, columns)]
        lines += [f"{row.setting}: {printable(row.note)}" for row in group.rows if row.note]
    return "\n".join([*lines, "", *LEGEND])


def _title(group: CostGroup) -> str:
    size = "x".join(map(str, group.image_size))
    compiled = {True: ", compiled", "blocks": ", compiled by block"}.get(group.compiled, "")
    rounds = f"{group.rounds} round{'s' if group.rounds != 1 else ''}"
    return f"{group.backbone}, batch {group.batch_size}, {size}, {group.precision}{compiled}, {rounds}"


def _cells(group: CostGroup, columns: Sequence[Column]) -> list[list[str]]:
    cells = []
    for row in group.rows:
        figures = find_figures(group, row)
        found = [figures[column.key] for column in columns]
        cells.append([row.setting, *("" if v is None else c.write(v) for c, v in zip(columns, found, strict=True))])
    return cells


def _align(group: CostGroup, columns: Sequence[Column]) -> list[str]:
    cells = _cells(group, columns)
    names = ["", *(column.name for column in columns)]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    above = " " * widths[0]
    for number, column in enumerate(columns, 1):
        first = number == 1 or columns[number - 2].group != column.group
        above += ("  " if first else " ") + (column.group if first else "").rjust(0)
        if first:
            span = [w for w, c in zip(widths[number:], columns[number - 1 :], strict=True) if c.group == column.group]
            room = sum(span) + len(span) - 1
            above = above[: len(above) - len(column.group)] + column.group.center(room, "-" if len(span) > 1 else " ")
        else:
            above = above[:-1]
    lines = [above.rstrip()]
    for texts in [names, *cells]:
        line = texts[0].ljust(widths[0])
        for number, column in enumerate(columns, 1):
            first = number == 1 or columns[number - 2].group != column.group
            line += ("  " if first else " ") + texts[number].rjust(widths[number])
        lines.append(line.rstrip())
    return lines


def to_markdown(costs: Costs) -> str:
    """Write a page with the tables of all groups and how they were measured."""
    versions = ", ".join(f"{name} {text}" for name, text in costs.versions.items())
    lines = [
        "# What each method costs",
        "",
        f"Measured on {costs.device} ({costs.clock}; {versions}; commit {costs.commit or 'unknown'}) by",
        "",
        f"    {costs.command}",
        "",
        "All settings of a table in one process, one update and one forward pass of each in turn, round after round.",
        "",
        *(f"* {line}" for line in LEGEND),
    ]
    for group in costs.groups:
        lines += ["", f"## {_title(group)}"]
        for columns in (TIMES, COUNTS):
            names = ["setting", *(f"{column.group} {column.name}".strip() for column in columns)]
            rows = _cells(group, columns)
            lines += ["", f"| {' | '.join(names)} |", f"|---{'|--:' * len(columns)}|"]
            lines += [f"| {' | '.join(cells)} |" for cells in rows]
        notes = [f"* {row.setting}: {printable(row.note)}" for row in group.rows if row.note]
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def to_csv(costs: Costs) -> str:
    """Write a line for each setting of each group."""
    rows = []
    for group in costs.groups:
        shared = {
            "device": costs.device,
            "commit": costs.commit,
            "backbone": group.backbone,
            "batch_size": group.batch_size,
            "image_size": "x".join(map(str, group.image_size)),
            "precision": group.precision,
            "compiled": group.compiled,
        }
        for row in group.rows:
            own = {"setting": row.setting, "kind": row.kind, "overrides": " ".join(row.overrides)}
            rows.append({**shared, **own, **find_figures(group, row)})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
