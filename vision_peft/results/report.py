"""Report result rows as one publishable table: a row per setting, a column per task, and commands to reproduce it."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_peft.protocols import PROTOCOLS
from vision_peft.results.averages import Groups, Mean, average_tasks_over_seeds, list_tasks
from vision_peft.results.commands import collect_commands, describe_provenance
from vision_peft.results.plot_series import format_value
from vision_peft.results.row import Row
from vision_peft.results.settings import METRICS, RECIPE, Metric, Setting, flatten_fields, group_by_seed
from vision_peft.results.table import format_count

Place = tuple[str, str | None]  # dataset and task
TUNED = ("lr", "weight_decay")  # what papers choose for each task on its own
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
}
METRIC_WORDS = {"top1": "top-1 accuracy on test, %", "mean_per_class": "mean per-class accuracy on test, %"}
TEXTS = ("method", "backbone", "protocol", "recipe")  # columns of text
CSV_COLUMNS = ("method", "backbone", "protocol", "recipe", "dataset", "task", "metric", "n_seeds", "mean", "std")
CSV_COLUMNS += ("params_trained",)


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

    def recipe(self, name: str) -> str:
        """Describe a field of the recipe; a range if it was chosen for each task, empty if there is nothing to say."""
        values = {json.dumps(value): value for row in self.rows if (value := getattr(row, name)) is not None}
        if not values or (name == "views" and list(values) == ["1"]):
            return ""
        texts = [f"{value:g}" if isinstance(value, float) else format_value(value) for value in sorted(values.values())]
        return WORDS[name].format(texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]} by task")

    def means(self, dataset: str, columns: Sequence[str], groups: Groups, metric: Metric) -> dict[str, Mean]:
        """Average over the tasks of a dataset; over a part of `columns` only if that part is a whole benchmark."""
        tasks = {str(task): setting for (name, task), setting in self.settings.items() if name == dataset}
        wanted = list_tasks(groups)
        if wanted and set(wanted) <= tasks.keys():
            tasks = {task: tasks[task] for task in wanted}
        means = average_tasks_over_seeds(tasks, groups, metric) if tasks else {}
        whole = tasks.keys() == set(columns) or tasks.keys() == set(wanted)
        return {label: mean for label, mean in means.items() if whole or not label.startswith("mean of")}


@dataclass(frozen=True)
class Report:
    """Rows arranged for printing: `columns` is the table, `notes` go below it."""

    title: str
    columns: dict[str, list[str]]
    notes: list[str]
    commands: list[tuple[str, list[str]]]  # name of each line, commands that reproduce it
    numbers: list[tuple]  # of the CSV file

    def markdown(self, width: int | None = None) -> str:
        """Format the table as Markdown that is also readable as plain text.

        If it is wider than `width` characters and narrower when transposed, settings become columns and tasks rows.
        """
        turned = [[name, *cells] for name, cells in self.columns.items()]
        table = _format_table(
            [list(cells) for cells in zip(*turned, strict=True)], [name not in TEXTS for name in self.columns]
        )
        if width is not None and len(table[0]) > width:
            table = min(
                table, _format_table(turned, [False] + [True] * (len(turned[0]) - 1)), key=lambda lines: len(lines[0])
            )
        notes = "\n".join(f"* {note}" for note in self.notes)
        blocks = ["\n".join([f"# {name}", *commands]) for name, commands in self.commands if commands]
        commands = "```bash\n" + "\n\n".join(blocks) + "\n```" if blocks else ""
        return "\n\n".join(filter(None, [self.title, "\n".join(table), notes, commands])) + "\n"

    def csv_text(self) -> str:
        """Format one line per setting and task, or average, with mean and standard deviation (n - 1) over seeds."""
        with io.StringIO(newline="") as file:
            csv.writer(file).writerows([CSV_COLUMNS, *self.numbers])
            return file.getvalue()


def make_report(rows: Sequence[Row], metric: Metric = "top1", suites: Mapping[str, Groups] | None = None) -> Report:
    """Arrange rows as a table of `metric`; `suites` holds, by dataset, the groups of tasks that a benchmark averages.

    Runs share a line if they differ only in seed, task, number of training images and, as long as no task has several
    of them, learning rate and weight decay. Search trials, which have no test accuracy, are left out and counted.
    ValueError if no row has the metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric}")
    measured = [row for row in rows if getattr(row, metric) is not None]
    if not measured:
        raise ValueError(f"nothing to report: none of {len(rows)} rows has {metric} (search trials do not read test)")
    suites = suites or {}
    lines = _make_lines(group_by_seed(measured))
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
    columns, shared = _describe_lines(lines)
    names = [", ".join(filter(None, words)) for words in zip(*columns.values(), strict=True)]
    columns["seeds"] = [str(line.seeds) for line in lines]
    for place in places:
        head = place[1] or place[0] if len(datasets) == 1 else " ".join(filter(None, place))
        columns[head] = [_format_cell(line, place, metric) for line in lines]
    for dataset, label in dict.fromkeys(key for of_line in means for key in of_line):
        head = label if len(datasets) == 1 else f"{dataset} {label}"
        pairs = zip(lines, means, strict=True)
        columns[head] = [_format_mean(line, of_line.get((dataset, label))) for line, of_line in pairs]
    columns["trained"] = [_format_trained(line) for line in lines]
    return Report(
        title=f"{', '.join([' and '.join(datasets), *shared])}: {METRIC_WORDS[metric]}",
        columns=columns,
        notes=[*_write_notes(lines, tasks, suites, len(rows) - len(measured)), *describe_provenance(measured)],
        commands=[(name, collect_commands(line.rows, suites)) for name, line in zip(names, lines, strict=True)],
        numbers=[
            cells
            for name, line, of in zip(columns["method"], lines, means, strict=True)
            for cells in _list_numbers(name, line, of, metric)
        ],
    )


def _make_lines(settings: Sequence[Setting]) -> list[Line]:
    """Join settings into lines of the table; fewer fields may differ where a line would have a task twice."""
    lines = _join(settings, [("n_train", *TUNED), ("n_train",), ()])
    return sorted(
        lines, key=lambda line: (line.row.backbone, PROTOCOLS.index(line.row.protocol), line.row.params_trained)
    )


def _join(settings: Sequence[Setting], frees: Sequence[tuple[str, ...]]) -> list[Line]:
    groups: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        row = setting.row
        fixed = [getattr(row, name) for name in ("backbone", "protocol", *RECIPE) if name not in frees[0]]
        groups[json.dumps([row.methods, fixed], sort_keys=True)].append(setting)
    lines: list[Line] = []
    for group in groups.values():
        at = {(setting.row.dataset, setting.row.task): setting for setting in group}
        lines += [Line(at)] if len(at) == len(group) else _join(group, frees[1:])
    return lines


def _order(places: set[Place], suites: Mapping[str, Groups]) -> list[Place]:
    """Order tasks as in their benchmark, others after them by name."""

    def key(place: Place) -> tuple[str, int, str]:
        known = list_tasks(suites.get(place[0], {}))
        return place[0], known.index(place[1]) if place[1] in known else len(known), str(place[1])

    return sorted(places, key=key)


def _describe_lines(lines: Sequence[Line]) -> tuple[dict[str, list[str]], list[str]]:
    """Make the columns that distinguish lines, and describe what all of them share."""
    columns = {"method": _name_lines(lines)}
    shared: list[str] = []
    for name in ("backbone", "protocol"):
        values = [str(getattr(line.row, name)) for line in lines]
        if len(set(values)) > 1:
            columns[name] = values
        else:
            shared.append(values[0])
    recipes: list[list[str]] = [[] for _ in lines]
    for name in RECIPE:
        words = [line.recipe(name) for line in lines]
        by_task = any("by task" in word for word in words)
        if len(set(words)) == 1 and not by_task:
            shared += filter(None, words[:1])
        elif name != "n_train" or not by_task:
            for recipe, word in zip(recipes, words, strict=True):
                recipe += filter(None, [word])
    if any(recipes):
        columns["recipe"] = [", ".join(recipe) for recipe in recipes]
    return columns, shared


def _name_lines(lines: Sequence[Line]) -> list[str]:
    """Name each line by method and size; if that is not unique, also by the fields in which equal names differ."""
    own = [{k: v for k, v in flatten_fields(line.row).items() if k not in RECIPE} for line in lines]
    names: list[str] = []
    for line, fields in zip(lines, own, strict=True):
        alike = [other for twin, other in zip(lines, own, strict=True) if twin.row.label == line.row.label]
        told = [f"{k}={format_value(v)}" for k, v in fields.items() if any(other.get(k, v) != v for other in alike)]
        names.append(line.row.label + (f" ({', '.join(told)})" if told else ""))
    return names


def _format_cell(line: Line, place: Place, metric: Metric) -> str:
    if (setting := line.settings.get(place)) is None:
        return "-"
    fewer = f" (n={len(setting.rows)})" if len(setting.rows) < line.seeds else ""
    return _format_mean(line, (setting.mean(metric) or 0.0, setting.std(metric))) + fewer


def _format_mean(line: Line, mean: Mean | None) -> str:
    if mean is None:
        return "-"
    spread = "" if mean[1] is None else f" ± {mean[1]:.2f}"
    return f"{mean[0]:.2f}{spread}" + ("*" if line.row.protocol == "best_test" else "")


def _format_trained(line: Line) -> str:
    counts = sorted({row.params_trained for row in line.rows})
    return " to ".join(format_count(count) for count in dict.fromkeys((counts[0], counts[-1])))


def _write_notes(
    lines: Sequence[Line], tasks: Mapping[str, Sequence[str]], suites: Mapping[str, Groups], left_out: int
) -> list[str]:
    notes = ["mean ± standard deviation (n - 1) over seeds"] if any(line.seeds > 1 for line in lines) else []
    notes.append("trained: parameters without the head")
    for dataset, columns in tasks.items():
        wanted = list_tasks(suites.get(dataset, {}))
        if len(columns) > 1 and wanted and not set(wanted) <= set(columns):
            notes.append(f"mean of {len(columns)} tasks: those shown, not the benchmark's {len(wanted)}")
    if any(line.row.protocol == "best_test" for line in lines):
        notes.append("figures with a star: epoch selected on test, not comparable with the others")
    if left_out:
        notes.append(f"{left_out} run{'s' * (left_out > 1)} without test accuracy left out")
    return notes


def _list_numbers(name: str, line: Line, means: Mapping[tuple[str, str], Mean], metric: Metric) -> list[tuple]:
    recipe = "; ".join(filter(None, (line.recipe(field) for field in RECIPE)))
    first = (name, line.row.backbone, line.row.protocol, recipe)
    cells: list[tuple] = [
        (*place, metric, len(setting.rows), (setting.mean(metric), setting.std(metric)), setting.row.params_trained)
        for place, setting in line.settings.items()
    ]
    cells += [(*place, metric, line.seeds, mean, line.row.params_trained) for place, mean in means.items()]
    return [
        (*first, dataset, task or "", metric, seeds, f"{mean:.4f}", "" if std is None else f"{std:.4f}", count)
        for dataset, task, metric, seeds, (mean, std), count in cells
    ]


def _format_table(table: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Format a Markdown table, its columns padded to the same width."""
    cells = [[text.replace("|", r"\|") for text in row] for row in table]
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
