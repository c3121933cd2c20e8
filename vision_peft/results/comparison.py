"""The table of a comparison of methods on one dataset, for a terminal, as Markdown and as CSV."""

import csv
import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vision_peft.printable import for_csv, for_markdown, printable
from vision_peft.results.figures import describe_figure, format_number, get_figure, get_val_score
from vision_peft.results.intervals import Interval, find_interval
from vision_peft.results.row import Row
from vision_peft.results.selection import describe_panel
from vision_peft.results.table import format_bytes, format_count, format_seconds

LONGEST_NAME = 40
WIDTH = 110  # of text on a terminal


@dataclass(frozen=True)
class Entry:
    """A method of the comparison: what val chose of it, or why it was left out."""

    name: str  # with its size: "LoRA-8"
    row: Row | None = None  # of the run that read test
    why: str = ""  # there is none
    tried: str = ""  # on val: "18 epochs"
    search_s: float | None = None  # of all its runs
    predicted_bytes: float | None = None  # at the peak
    inference: float | None = None  # time of a forward pass over that of the bare backbone
    merged: float | None = None  # the same when merged into it
    folder: str = ""  # of the run
    command: str = ""  # that trains it

    @property
    def cheapest_inference(self) -> float | None:
        """Return the ratio of a forward pass as one would use it."""
        return self.inference if self.merged is None else self.merged


def list_done(entries: Sequence[Entry]) -> list[tuple[Entry, Row]]:
    """List the entries that have a figure, with their rows."""
    return [(entry, entry.row) for entry in entries if entry.row is not None]


def format_figure(row: Row, interval: bool = True) -> str:
    """Write the figure of test with its interval: "83.3 % (79.3 to 87.1)"."""
    value = get_figure(row, row.metric)
    if value is None:
        return "-"
    found = find_interval(row) if row.metric == "top1" and interval else None
    if row.metric != "top1":
        name, _, unit = row.figure_words.get(row.metric, row.metric).partition(",")
        return f"{name} {format_number(value)}{unit}"
    return f"{value:.1f} %{_in_brackets(found)}"


def format_comparison(entries: Sequence[Entry], notes: Sequence[str]) -> str:
    """Format the table with what is left out, for 120 columns."""
    done = list_done(entries)
    lines = [_make_cells(entry, row) for entry, row in done]
    names = [name for name in (lines[0] if lines else {}) if any(line[name] != "-" for line in lines)]
    widths = {name: max(len(name), *(len(line[name]) for line in lines)) for name in names}

    def write(cells: dict[str, str]) -> str:
        return "  ".join(
            cells[name].ljust(widths[name]) if name == "method" else cells[name].rjust(widths[name]) for name in names
        ).rstrip()

    heading = [", ".join(describe_panel(done[0][1]).values())] if done else []
    table = [write({name: name for name in names}), "  ".join("-" * widths[name] for name in names)] if done else []
    below = [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in _list_notes(entries, notes)]
    return "\n".join([*heading, *[""] * bool(done), *table, *map(write, lines), "", *below])


def wrap_sentences(sentences: Sequence[str]) -> list[str]:
    """Wrap sentences for a terminal, each on lines of its own."""
    return [textwrap.fill(sentence, WIDTH) for sentence in sentences]


def to_markdown(entries: Sequence[Entry], advice: Sequence[str], notes: Sequence[str]) -> str:
    """Write the table, the advice and the commands as Markdown."""
    done = list_done(entries)
    lines = [_make_cells(entry, row) for entry, row in done]
    names = [name for name in (lines[0] if lines else {}) if any(line[name] != "-" for line in lines)]
    table = [_write_line(names), _write_line(["---" if name == "method" else "---:" for name in names])] if done else []
    table += [_write_line([for_markdown(line[name]) for name in names]) for line in lines]
    heading = ", ".join(describe_panel(done[0][1]).values()) if done else "nothing was compared"
    commands = [f"# {entry.name}\n{entry.command}" for entry, _ in done if entry.command]
    parts = [
        f"# Comparison: {for_markdown(heading)}\n",
        *(["\n".join(table) + "\n"] if table else []),
        *([f"{' '.join(for_markdown(text) for text in advice)}\n"] if advice else []),
        "\n".join(f"* {for_markdown(text.strip())}" for text in _list_notes(entries, notes)) + "\n",
        *(["```bash\n" + "\n".join(commands) + "\n```\n"] if commands else []),
    ]
    return "\n".join(parts)


def to_csv(entries: Sequence[Entry]) -> str:
    """Write a line for each entry, with plain numbers: bytes, seconds, percent."""
    with io.StringIO(newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for entry in entries:
            values = [read(entry) for read in _COLUMNS.values()]
            writer.writerow([for_csv("" if value is None else value) for value in values])
        return file.getvalue()


def _of_row(read: Callable[[Row], Any]) -> Callable[[Entry], Any]:
    return lambda entry: None if entry.row is None else read(entry.row)


def _bound(side: str) -> Callable[[Row], float | None]:
    return lambda row: None if (found := find_interval(row)) is None else getattr(found, side)


_COLUMNS: dict[str, Callable[[Entry], Any]] = {
    "method": lambda entry: entry.name,
    "metric": _of_row(lambda row: row.metric),
    "test": _of_row(lambda row: get_figure(row, row.metric)),
    "low": _of_row(_bound("low")),
    "high": _of_row(_bound("high")),
    "val": _of_row(get_val_score),
    "params_trained": _of_row(lambda row: row.params_trained),
    "params_stored": _of_row(lambda row: row.params_stored),
    "params_head": _of_row(lambda row: row.params_head),
    "adapter_bytes": _of_row(lambda row: row.adapter_bytes),
    "lr": _of_row(lambda row: row.lr),
    "epochs": _of_row(lambda row: row.epochs),
    "train_seconds": _of_row(lambda row: row.train_seconds),
    "search_seconds": lambda entry: entry.search_s,
    "peak_memory_mb": _of_row(lambda row: row.peak_memory_mb),
    "predicted_memory_mb": lambda entry: entry.predicted_bytes and entry.predicted_bytes / 1e6,
    "inference": lambda entry: entry.inference,
    "merged_inference": lambda entry: entry.merged,
    "tried": lambda entry: entry.tried,
    "left_out": lambda entry: entry.why,
    "command": lambda entry: entry.command,
}


def _make_cells(entry: Entry, row: Row) -> dict[str, str]:
    value = get_figure(row, row.metric)
    found = find_interval(row) if row.metric == "top1" else None
    figure = "-" if value is None else f"{value:.1f}" if row.metric == "top1" else format_number(value)
    measured, predicted = row.peak_memory_mb, entry.predicted_bytes
    memory = "-" if measured is None else f"{measured:,.0f}"
    memory += f" ({predicted / 1e6:,.0f})" if predicted else ""
    ratio = entry.cheapest_inference
    return {
        "method": printable(entry.name, LONGEST_NAME),
        describe_figure(row, row.metric): figure + _in_brackets(found),
        "trained": format_count(row.params_trained, 1),
        "stored": format_count(row.params_stored, 1),
        "adapter": format_bytes(row.adapter_bytes),
        "train": format_seconds(row.train_seconds),
        "search": "-" if entry.search_s is None else format_seconds(entry.search_s),
        "memory, MB": memory,
        "infer": "-" if ratio is None else f"{ratio:.2f}x{'*' * (entry.merged is not None)}",
        "tried": entry.tried or "-",
    }


def _in_brackets(found: Interval | None) -> str:
    return "" if found is None else f" ({found.low:.1f} to {found.high:.1f})"


def _list_notes(entries: Sequence[Entry], notes: Sequence[str]) -> list[str]:
    """List what stands below the table."""
    words = [f"{printable(entry.name, LONGEST_NAME)} was left out: {entry.why}" for entry in entries if not entry.row]
    return [*words, *notes]


def _write_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
