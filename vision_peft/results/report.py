"""Report result rows as one publishable table: a row per setting, a column per task, and commands to reproduce it."""

import csv
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_peft.printable import for_csv, for_markdown, printable
from vision_peft.results.averages import Groups, Mean, list_tasks
from vision_peft.results.commands import collect_commands, describe_provenance
from vision_peft.results.figures import describe_metric, find_unit, format_number, select_rows, write_digits
from vision_peft.results.labels import format_value
from vision_peft.results.report_lines import (
    Line,
    Place,
    describe_lines,
    describe_tried,
    list_names,
    make_lines,
    name_lines,
)
from vision_peft.results.row import Row
from vision_peft.results.selection import NothingMeasuredError, select_measured, split_by_unit
from vision_peft.results.settings import Metric, Setting, list_settings
from vision_peft.results.table import format_count, format_seconds

TEXTS = ("method", "backbone", "protocol", "recipe")  # columns of text
CSV_COLUMNS = ("method", "backbone", "protocol", "recipe", "dataset", "task", "metric", "unit")
CSV_COLUMNS += ("n_seeds", "mean", "std", "params_trained", "train_seconds", "not_finished")


@dataclass(frozen=True)
class Report:
    """Rows arranged for printing: `columns` is the table, `notes` go below it."""

    title: str
    columns: dict[str, list[str]]  # none where nothing was measured
    notes: list[str]
    commands: list[tuple[str, list[str]]]  # name of each line, commands that reproduce it
    numbers: list[tuple]  # of the CSV file

    def markdown(self, width: int | None = None) -> str:
        """Format the table as Markdown that is also readable as plain text.

        If it is wider than `width` characters and narrower when transposed, settings become columns and tasks rows.
        """
        turned = [[name, *cells] for name, cells in self.columns.items()]
        cells, right = [list(line) for line in zip(*turned, strict=True)], [name not in TEXTS for name in self.columns]
        table = format_table(cells, right) if cells else [""]
        if width is not None and len(table[0]) > width:
            table = min(
                table, format_table(turned, [False] + [True] * (len(turned[0]) - 1)), key=lambda lines: len(lines[0])
            )
        notes = "\n".join(f"* {for_markdown(note, starts=True)}" for note in self.notes)
        named = [[f"# {name}", *commands] for name, commands in self.commands if commands]
        code = "\n\n".join("\n".join(printable(line, len(line)) for line in block) for block in named)
        fence = "`" * (1 + max(map(len, re.findall("`{2,}", code)), default=2))  # nothing in the code ends it
        commands = f"{fence}bash\n{code}\n{fence}" if code else ""
        title = for_markdown(self.title, starts=True)
        return "\n\n".join(filter(None, [title, "\n".join(table), notes, commands])) + "\n"

    def csv_text(self) -> str:
        """Format one line per setting and task, or average, with mean and standard deviation (n - 1) over seeds."""
        with io.StringIO(newline="") as file:
            csv.writer(file).writerows(map(for_csv, cells) for cells in (CSV_COLUMNS, *self.numbers))
            return file.getvalue()


def join_csv(reports: Sequence[Report]) -> str:
    """Format the lines of several reports as one CSV file."""
    first, *others = [report.csv_text() for report in reports]
    return first + "".join(text.partition("\n")[2] for text in others)


def make_reports(
    rows: Sequence[Row], metrics: Sequence[Metric], suites: Mapping[str, Groups], without_row: int = 0
) -> list[Report]:
    """Make a report of each of `metrics`, for each kind of task and unit, with the arguments of `make_report`.

    That of a metric which no row has is a title and a note that says why, and lists the runs that have not finished in
    its numbers. NothingMeasuredError if no row has any of the metrics.
    """
    reports, problems = [], []
    units = [(metric, own) for metric in metrics for own in split_by_unit(select_rows(rows, metric), metric) or [[]]]
    for metric, own in units:
        try:
            reports.append(make_report(own, metric, suites, without_row))
        except NothingMeasuredError as error:
            problems.append(error)
            title = f"{' and '.join(dict.fromkeys(row.dataset for row in own))}: {describe_metric(own, metric)}"
            reports.append(Report(title, {}, [str(error)], [], _list_lost(error.settings, metric)))
    if problems and len(problems) == len(reports):
        why = "; ".join(error.why for error in problems)
        raise NothingMeasuredError("report", why, [setting for error in problems for setting in error.settings])
    return reports


def make_report(
    rows: Sequence[Row], metric: Metric = "top1", suites: Mapping[str, Groups] | None = None, without_row: int = 0
) -> Report:
    """Arrange rows as a table of `metric`; `suites` holds, by dataset, the groups of tasks that a benchmark averages.

    Runs share a line if they differ only in seed, task, data and, as long as no task has several of them, learning
    rate and weight decay. Search trials, which have no test accuracy, and runs that have not finished, of
    which `without_row` left no row, are counted in the notes. NothingMeasuredError if no row has the metric.
    """
    suites, selection = suites or {}, select_measured(rows, metric, "report", without_row)
    measured = [row for setting in selection.measured for row in setting.rows]
    lines = make_lines(selection.measured)
    places = _order({place for line in lines for place in line.settings}, suites)
    datasets = list(dict.fromkeys(dataset for dataset, _ in places))
    tasks = {dataset: [str(task) for name, task in places if name == dataset] for dataset in datasets}
    means = [
        {
            (name, label): mean
            for name in datasets
            for label, mean in line.means(name, tasks[name], suites.get(name, {}), metric).items()
        }
        for line in lines
    ]
    columns, shared = describe_lines(lines)
    names = [", ".join(filter(None, words)) for words in zip(*columns.values(), strict=True)]
    columns["seeds"] = [_count_seeds(line) for line in lines]
    for place in places:
        head = place[1] or place[0] if len(datasets) == 1 else " ".join(filter(None, place))
        columns[head] = [_format_cell(line, place, metric) for line in lines]
    for dataset, label in dict.fromkeys(key for of_line in means for key in of_line):
        head = label if len(datasets) == 1 else f"{dataset} {label}"
        pairs = zip(lines, means, strict=True)
        columns[head] = [_format_mean(line, of_line.get((dataset, label))) for line, of_line in pairs]
    columns["trained"] = [_format_trained(line) for line in lines]
    columns["train time"] = [format_seconds(statistics.fmean(row.train_seconds for row in line.rows)) for line in lines]
    return Report(
        title=f"{', '.join([' and '.join(datasets), *shared])}: {describe_metric(measured, metric)}",
        columns=columns,
        notes=[
            *_write_notes(lines, tasks, suites),
            *describe_tried(columns["method"], lines),
            *selection.notes,
            *describe_provenance(measured),
        ],
        commands=[(name, collect_commands(line.rows, suites)) for name, line in zip(names, lines, strict=True)],
        numbers=[
            *(
                cells
                for name, line, of in zip(columns["method"], lines, means, strict=True)
                for cells in _list_numbers(line, name, of, metric)
            ),
            *_list_lost(selection.settings, metric),
        ],
    )


def _order(places: set[Place], suites: Mapping[str, Groups]) -> list[Place]:
    """Order tasks as in their benchmark, others after them by name."""

    def key(place: Place) -> tuple[str, int, str]:
        known = list_tasks(suites.get(place[0], {}))
        return place[0], known.index(place[1]) if place[1] in known else len(known), str(place[1])

    return sorted(places, key=key)


def _count_seeds(line: Line) -> str:
    least = min(len(setting.rows) for setting in line.settings.values())
    counted = f"{least} to {line.seeds}" if least < line.seeds else f"{least}"
    return counted + f" of {line.started}" * (line.started > least and any(s.lost for s in line.settings.values()))


def _format_cell(line: Line, place: Place, metric: Metric) -> str:
    if (setting := line.settings.get(place)) is None:
        return "-"
    fewer = f" (n={len(setting.rows)})" if len(setting.rows) < line.seeds else ""
    return _format_mean(line, (setting.mean(metric) or 0.0, setting.std(metric))) + fewer


def _format_mean(line: Line, mean: Mean | None) -> str:
    if mean is None:
        return "-"
    spread = "" if mean[1] is None else f" ± {format_number(mean[1], mean[0])}"
    return f"{format_number(mean[0])}{spread}" + ("*" if line.row.protocol == "best_test" else "")


def _format_trained(line: Line) -> str:
    counts = sorted({row.params_trained for row in line.rows})
    return " to ".join(format_count(count) for count in dict.fromkeys((counts[0], counts[-1])))


def _write_notes(lines: Sequence[Line], tasks: Mapping[str, Sequence[str]], suites: Mapping[str, Groups]) -> list[str]:
    notes = ["mean ± standard deviation (n - 1) over seeds"] if any(line.seeds > 1 for line in lines) else []
    notes.append("trained: parameters without the head; train time: mean of a run, evaluation on test excluded")
    for dataset, columns in tasks.items():
        wanted = list_tasks(suites.get(dataset, {}))
        if len(columns) > 1 and wanted and not set(wanted) <= set(columns):
            notes.append(f"mean of {len(columns)} tasks: those shown, not the benchmark's {len(wanted)}")
    if any(line.row.protocol == "best_test" for line in lines):
        notes.append("figures with a star: epoch selected on test, not comparable with the others")
    return notes


def _list_numbers(line: Line, name: str, means: Mapping[tuple[str, str], Mean], metric: Metric) -> list[tuple]:
    first = (
        name,
        line.row.backbone,
        line.row.protocol,
        "; ".join(filter(None, map(line.describe, list_names([line])))),
    )
    unit = find_unit(line.row, metric)
    cells: list[tuple] = []
    for (dataset, task), setting in line.settings.items():
        mean = map(write_digits, (setting.mean(metric), setting.std(metric)))
        seconds = f"{setting.mean('train_seconds') or 0:.1f}"
        where = (dataset, task or "", metric, unit, len(setting.rows), *mean)
        cells.append((*first, *where, setting.row.params_trained, seconds, setting.describe_lost()))
    for (dataset, label), mean in means.items():
        own = {str(task): setting for (name, task), setting in line.settings.items() if name == dataset}
        seeds = min(len(setting.rows) for setting in own.values())
        where = (dataset, label, metric, unit, seeds, *map(write_digits, mean))
        lost = "; ".join(f"{task}: {setting.describe_lost()}" for task, setting in own.items() if setting.lost)
        cells.append((*first, *where, line.row.params_trained, "", lost))
    return cells


def _list_lost(settings: Sequence[Setting], metric: Metric) -> list[tuple]:
    """List the settings of which no seed has finished."""
    lines = [Line({(setting.row.dataset, setting.row.task): setting}) for setting in settings if not setting.rows]
    cells = []
    for line, name in zip(lines, name_lines(lines), strict=True):
        row = line.row
        recipe = "; ".join(f"{key}={format_value(value)}" for key, value in list_settings(row).items())
        first = (name, row.backbone, row.protocol, recipe, row.dataset, row.task or "", metric, find_unit(row, metric))
        (setting,) = line.settings.values()
        cells.append((*first, 0, "", "", row.params_trained, "", setting.describe_lost()))
    return cells


def format_table(table: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Format a Markdown table, its columns padded to the same width."""
    cells = [[for_markdown(text) for text in row] for row in table]
    widths = [max(3, *(len(row[place]) for row in cells)) for place in range(len(cells[0]))]
    rule = ["-" * (width - 1) + ":" if flush else "-" * width for width, flush in zip(widths, right, strict=True)]
    aligned = [
        [
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(row, widths, right, strict=True)
        ]
        for row in [cells[0], rule, *cells[1:]]
    ]
    return [f"| {' | '.join(row)} |" for row in aligned]
