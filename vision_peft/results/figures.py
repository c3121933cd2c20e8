"""Figures of rows by their names, whatever the task is: what they are, how they are written, which one is shown."""

import math
from collections.abc import Iterable, Sequence

from vision_peft.results.row import FINISHED, Row
from vision_peft.suggest import did_you_mean

# Of one of several classes, as a row's `figure_words` has those of other tasks
OF_CLASSES = {"top1": "top-1, %", "mean_per_class": "per class, %"}
SMALLEST = 1e-5  # figure that is written without a power of ten
LONG = {
    "top1": ("top-1 accuracy on test, %", "top-1 accuracy (%)"),
    "mean_per_class": ("mean per-class accuracy on test, %", "mean per-class accuracy (%)"),
}


def get_figure(row: Row, name: str) -> float | None:
    """Return a figure of test, or any other number of a row, by its name; None where it was not measured."""
    return row.figures[name] if name in row.figures else getattr(row, name, None)


def get_val_score(row: Row) -> float | None:
    """Return the figure on val that chose the epoch."""
    return row.val_top1 if row.metric == "top1" else row.val_figure


def rank_val_score(row: Row) -> float:
    """Return the same as a number of which more is better, and none of a run that has no such figure is worse."""
    score = get_val_score(row)
    if score is None:
        return -math.inf if row.lower_is_better else 0.0
    return -score if row.lower_is_better else score


def is_tested(row: Row) -> bool:
    """Whether test was read."""
    return row.top1 is not None or bool(row.figures)


def describe_figure(row: Row, name: str) -> str:
    """Name a figure with its unit, as columns have it: "top-1 %"."""
    return (row.figure_words or OF_CLASSES).get(name, name).replace(",", "")


def find_unit(row: Row, name: str) -> str:
    """Return the unit of a figure: "%", "mm"; empty where it has none."""
    return (row.figure_words or OF_CLASSES).get(name, "").partition(",")[2].strip()


def is_lower_better(row: Row, metric: str) -> bool:
    """Return whether a smaller value of `metric` is the better one.

    Raises:
        ValueError: it is not known: a row tells it of the figure that chose on val only.
    """
    if metric == row.metric:
        return row.lower_is_better
    if metric in OF_CLASSES:
        return False
    raise ValueError(f"rows do not say whether a high {metric} is better: wanted {row.metric}")


def list_figures(row: Row) -> list[str]:
    """List the names of the figures that rows of this task have, the one that chooses first."""
    return [*dict.fromkeys((row.metric, *(row.figure_words or OF_CLASSES)))]


def choose_metric(rows: Iterable[Row], given: str | None) -> list[str]:
    """Return the figures that a table or picture is made of: the `given` one, or that of each kind of task.

    Raises:
        ValueError: no row can have the given one.
    """
    rows = [*rows]
    known = dict.fromkeys(name for row in rows for name in list_figures(row))
    if given is None:
        return [*dict.fromkeys(row.metric for row in rows)] or ["top1"]
    if rows and given not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}, got {given}{did_you_mean(given, [*known])}")
    return [given]


def select_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return the rows of the tasks that have `metric`, so that rows of other tasks are not missed in them."""
    return [row for row in rows if metric in list_figures(row)]


def list_measured(rows: Iterable[Row], metrics: Sequence[str]) -> list[str]:
    """Return those of `metrics` that a finished run has on test."""
    finished = [row for row in rows if row.status == FINISHED]
    return [metric for metric in metrics if any(get_figure(row, metric) is not None for row in finished)]


def describe_metric(rows: Iterable[Row], metric: str, axis: bool = False) -> str:
    """Name a figure for a title, or for an axis."""
    if metric in LONG:
        return LONG[metric][axis]
    words = next((row.figure_words[metric] for row in rows if metric in row.figure_words), metric)
    if not axis:
        return f"{words.partition(',')[0]} on test{words[len(words.partition(',')[0]) :]}"
    name, _, unit = words.partition(",")
    return f"{name} ({unit.strip()})" if unit else name


def format_number(value: float, beside: float | None = None) -> str:
    """Write a figure, or a deviation `beside` a figure, with the digits that the figure needs: 97.51, 0.799, 0.0123."""
    size = abs(value if beside is None else beside)
    if 0 < size < SMALLEST:
        return f"{value:.2e}"
    return f"{value:.{2 if size >= 1 else 3 if size >= 0.1 or not size else 2 - math.floor(math.log10(size))}f}"


def write_digits(value: float | None) -> str:
    """Write a number for a table that programs read: four decimals, or six digits of what is smaller than 1."""
    if value is None:
        return ""
    return f"{value:.6g}" if 0 < abs(value) < 1 else f"{value:.4f}"


def find_chosen_k(row: Row) -> int | None:
    """Find the k of k-NN that val chose, of which each has the place of an epoch; None of any other run."""
    k = next((entry.get("k") for entry in row.curve if entry.get("epoch") == row.chosen_epoch), None)
    return k if type(k) is int else None
