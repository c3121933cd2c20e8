"""Format result rows as text: one run as a column of facts, several as lines."""

import re
from collections.abc import Sequence

from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.results.figures import (
    describe_figure,
    find_chosen_k,
    format_number,
    get_val_score,
    is_tested,
    list_figures,
)
from vision_peft.results.labels import disambiguate
from vision_peft.results.row import FINISHED, Row
from vision_peft.results.selection import describe_left_out, describe_lost, describe_panel
from vision_peft.results.settings import PANEL, Setting, group_by_seed

_NOTE = "parameters: trained and stored exclude the head; total = backbone + head; share = (trained + head) / total"

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "min": 60.0, "h": 3600.0}  # behind a number, in a cell of a report


def format_rows(rows: Sequence[Row], mean_over_seeds: bool = False) -> str:
    """Format accuracies, parameters, size on disk, time and memory as a table; a single line is written as a column.

    `share` counts the head on both sides: full fine-tuning is 100 %, a linear probe the share of its head.
    With `mean_over_seeds`, rows that differ only in the seed become one line: mean ± standard deviation (n - 1), mean
    time, highest memory; seeds that have not finished are counted below.
    """
    if not rows:
        return "no runs"
    settings = group_by_seed(rows) if mean_over_seeds else [setting for row in rows for setting in group_by_seed([row])]
    labels = disambiguate([setting.row.label for setting in settings], [[setting] for setting in settings])
    cells = [{"method": label, **_make_cells(setting)} for label, setting in zip(labels, settings, strict=True)]
    if not mean_over_seeds:  # "seeds 0" reads as none
        cells = [{"seed" if name == "seeds" else name: cell for name, cell in line.items()} for line in cells]
    lines = [{name: printable(cell, LONGEST_LINE) for name, cell in line.items()} for line in cells]
    notes = ["* epoch selected on test"] if any(row.protocol == "best_test" for row in rows) else []
    notes += [*describe_lost(settings), *describe_left_out(rows)] if mean_over_seeds else []
    notes = [*(printable(note, LONGEST_LINE) for note in notes), _NOTE]
    if len(lines) == 1:
        facts = {name: lines[0][name] for name in ("method", *PANEL)} | lines[0]
        return "\n".join([*_format_column(facts), "", *notes])
    shared = [name for name in PANEL if len({line[name] for line in lines}) == 1]
    heading = ", ".join(lines[0][name] for name in shared if lines[0][name] != "-")
    every = dict.fromkeys(name for line in lines for name in line)
    lines = [{name: line.get(name, "-") for name in every} for line in lines]
    names = [name for name in every if name not in shared and any(line[name] != "-" for line in lines)]
    return "\n".join([*([heading, ""] if heading else []), *_format_lines(names, lines), "", *notes])


def format_result(row: Row) -> str:
    """Format what came of one run as a small table: its figures on val and test, and what they cost."""
    setting, mark = group_by_seed([row])[0], "*" if row.protocol == "best_test" else ""
    score = get_val_score(row)
    val = "" if score is None else format_number(score)
    lines = [["", "val" if val else "", "test"]] if is_tested(row) or val else []
    for name in list_figures(row):
        chosen = val if name == row.metric else ""
        if chosen or setting.mean(name) is not None:  # of one target there is no error over all
            lines.append([describe_figure(row, name), chosen, _format_figure(setting, name, mark)])
    trained, total = row.params_trained + row.params_head, row.params_backbone + row.params_head
    share = f", {100 * trained / total:.2f} % of all" if total else ""
    memory = "" if row.peak_memory_mb is None else f", {format_bytes(row.peak_memory_mb * 1e6)} of memory at most"
    epoch = f"epoch {row.chosen_epoch} of {row.epochs} is kept; " if row.chosen_epoch else ""
    epoch = epoch if (k := find_chosen_k(row)) is None else f"k={k} is kept; "
    facts = [
        [
            "trained",
            f"{format_count(row.params_trained)} parameters, {format_count(row.params_head)} of the head{share}",
        ],
        ["adapter", f"{format_bytes(row.adapter_bytes)} on disk"],
        ["training", f"{epoch}{format_seconds(row.train_seconds or 0)}{memory}"],
    ]
    figures = [f"{name:<18}{on_val:>8}{on_test:>10}".rstrip() for name, on_val, on_test in lines]
    notes = ["", "* epoch selected on test"] if mark else []
    return "\n".join([*figures, *(f"{name:<18}{printable(fact)}" for name, fact in facts), *notes])


def format_count(number: float, digits: int = 2) -> str:
    """Format 1189632 as "1.19 M", with `digits` after the point; below 1,000 as an integer."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit * 0.999995:
            return f"{number / limit:.{digits}f} {unit}"
    return f"{number:.0f}"


def format_bytes(number: float) -> str:
    """Format 2403112 as "2.4 MB", in powers of ten."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit * 0.9995:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f} B"


def format_seconds(seconds: float) -> str:
    """Format 81.2 as "81 s", 725 as "12 min 5 s", 11520 as "3 h 12 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def read_number(text: str) -> float | None:
    """Return the first number of a cell of a report: 149.0 of "2 min 29 s", 96.4 of "96.40 ± 0.12*", None of "-"."""
    found = re.match(r"-?\d+(?:\.\d+)?", text)
    if found is None:
        return None
    _, unit, *rest = [*text[found.end() :].split(" "), ""]
    value = float(found[0]) * UNITS.get(unit, 1.0)
    return value + (read_number(" ".join(rest)) or 0.0) if unit in ("h", "min") else value


def _make_cells(setting: Setting) -> dict[str, str]:
    row = setting.row
    total = row.params_backbone + row.params_head
    mark = "*" if row.protocol == "best_test" else ""
    peaks = [row.peak_memory_mb for row in setting.rows if row.peak_memory_mb is not None]
    panel = describe_panel(row)
    where = {name: panel.get(name, "-") for name in PANEL}
    return where | {
        "seeds": ",".join(str(row.seed) for row in setting.rows or setting.lost),
        **_list_figures(setting, mark),
        "trained": format_count(row.params_trained),
        "stored": format_count(row.params_stored),
        "head": format_count(row.params_head),
        "total": format_count(total),
        "share": f"{100 * (row.params_trained + row.params_head) / total:.2f} %" if total else "-",
        "adapter": format_bytes(setting.mean("adapter_bytes") or 0),
        "train time": format_seconds(setting.mean("train_seconds") or 0),
        "memory": format_bytes(max(peaks) * 1e6) if peaks else "-",
    }


def _list_figures(setting: Setting, mark: str) -> dict[str, str]:
    """Write the figures of a task with their names: of test, then what chose on val."""
    row = setting.row
    cells = {describe_figure(row, name): _format_figure(setting, name, mark) for name in list_figures(row)}
    chosen = describe_figure(row, row.metric)
    cells[chosen] = row.status if row.status != FINISHED else cells[chosen]
    return {**cells, f"val {chosen}": _format_figure(setting, "val_top1" if row.metric == "top1" else "val_figure", "")}


def _format_figure(setting: Setting, name: str, mark: str) -> str:
    mean, std = setting.mean(name), setting.std(name)
    if mean is None:
        return "-"
    return format_number(mean) + ("" if std is None else f" ± {format_number(std, mean)}") + mark


def _format_column(cells: dict[str, str]) -> list[str]:
    words = {
        "seeds": "seed",
        "top-1 %": "top-1 accuracy %",
        "per class %": "mean per class %",
        "trained": "trained parameters",
        "stored": "stored parameters",
        "head": "head parameters",
        "total": "total parameters",
        "share": "share that trains",
        "adapter": "adapter on disk",
        "memory": "peak memory",
    }
    return [f"{words.get(name, name):<20}{cell}" for name, cell in cells.items() if cell != "-"]


def _format_lines(names: list[str], lines: list[dict[str, str]]) -> list[str]:
    columns = [[name, *(line[name] for line in lines)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    left = ("method", *PANEL)
    table = ["  ".join("-" * width for width in widths)]
    for cells in zip(*columns, strict=True):
        aligned = zip(names, cells, widths, strict=True)
        texts = (cell.ljust(width) if name in left else cell.rjust(width) for name, cell, width in aligned)
        table.append("  ".join(texts).rstrip())
    table[:2] = table[1::-1]
    return table
