"""Test which settings of a plot differ: over seeds and tasks, or over the test items that each answered.

Over seeds and tasks: of every task and seed that two methods share, either is the better one with probability one half
if they are equally good (sign test, exact, two-sided). A task on which all seeds give both methods the same figures
counts once: nothing drawn acts on a solved probe. Seeds of one task share its images, which the test does not know.
Over test items: the same test of the items of one task, with the bootstrap interval of the difference
(`intervals.py`); it does not count that another seed gives other answers. The p-values of all pairs of a table are
corrected for their number (Holm, Scandinavian Journal of Statistics 1979).
"""

import csv
import io
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from vision_peft.printable import for_csv, name_some
from vision_peft.results.figures import get_figure, is_lower_better, write_digits
from vision_peft.results.intervals import LEVEL, compare_rows, compute_sign_test
from vision_peft.results.labels import disambiguate, get_panel
from vision_peft.results.report_lines import make_lines
from vision_peft.results.row import Row
from vision_peft.results.selection import describe_panel
from vision_peft.results.settings import PANEL, Metric, Setting, group_by_seed

KINDS = ("seeds", "items")
MOST_NAMED = 12
COLUMNS = ("test", "where", "a", "b", "difference", "low", "high", "n", "a_better", "b_better", "p_value", "p_holm")
Figures = tuple[str, float, float]  # task, and the figures of two methods with one seed
Values = dict[tuple[str, int], float]  # a figure by task (with its data) and seed


@dataclass(frozen=True)
class Pair:
    """What a test says of two settings, a and b."""

    a: str  # label
    b: str
    difference: float  # of the means, a minus b
    bounds: tuple[float, float] | None  # 95 % of the difference; None: not known
    counts: tuple[int, int, int]  # what was compared: all, where a is better, where b is
    p_value: float
    p_holm: float = 1.0  # corrected for the number of pairs

    @property
    def differs(self) -> bool:
        """Whether the corrected test tells them apart."""
        return self.p_holm < 1 - LEVEL


@dataclass(frozen=True)
class PairTable:
    """All pairs of what is compared side by side."""

    kind: str  # of KINDS
    where: str  # what all of them share
    pairs: list[Pair]
    ranked: list[str]  # labels of what has every task, the best in the mean first
    partial: tuple[str, ...] = ()  # labels of what lacks tasks that others have

    def describe(self) -> str:
        """Say which settings the best one is better than, and which it cannot be told from."""
        told = f"Sign test over {'test items' if self.kind == 'items' else 'seeds and tasks'}, Holm, {self.where}: "
        if not self.ranked:
            return f"{told}no method has every task, so that none is the best"
        best, *others = [*self.ranked, *self.partial]
        of = {pair.a if pair.b == best else pair.b: pair for pair in self.pairs if best in (pair.a, pair.b)}
        told += f"{best} has the best mean" + " of those with every task" * bool(self.partial)
        for which, words in (
            ([name for name in others if name in of and of[name].differs], "it differs from"),
            ([name for name in others if name in of and not of[name].differs], "not told apart from it:"),
            ([name for name in others if name not in of], "not tested against it:"),
        ):
            told += f"; {words} {name_some(which, MOST_NAMED)}" if which else ""
        number = max((pair.counts[0] for pair in of.values()), default=0)
        if of and compute_sign_test(number, 0) * len(self.pairs) >= 1 - LEVEL:
            told += f" ({number} comparison{'s are' if number != 1 else ' is'} too few to show any difference)"
        return told


def compare_all(rows: Sequence[Row], metric: Metric, kind: str) -> tuple[list[PairTable], list[str]]:
    """Test all pairs of settings; notes say what could not be tested.

    Args:
        rows: of runs; those that have not finished or lack the metric count for nothing.
        metric: what is compared: any for seeds, accuracy for items.
        kind: "seeds": methods over the seeds and tasks that both have; "items": settings of one task.

    Raises:
        ValueError: an unknown kind, or items of another metric than accuracy.
    """
    if kind not in KINDS:
        raise ValueError(f"significance must be one of {', '.join(KINDS)}, got {kind}")
    if kind == "items" and metric != "top1":
        raise ValueError(f"rows know of test items whether they were answered right: wanted metric top1, got {metric}")
    settings = [setting for setting in group_by_seed(rows) if setting.mean(metric) is not None]
    return _test_items(settings) if kind == "items" else _test_seeds(settings, metric)


def write_pairs(tables: Iterable[PairTable]) -> str:
    """Return all pairs as CSV."""
    with io.StringIO(newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for table in tables:
            for pair in table.pairs:
                bounds = ["", ""] if pair.bounds is None else [write_digits(bound) for bound in pair.bounds]
                cells = [table.kind, table.where, pair.a, pair.b, write_digits(pair.difference), *bounds, *pair.counts]
                writer.writerow(map(for_csv, [*cells, f"{pair.p_value:.3g}", f"{pair.p_holm:.3g}"]))
        return file.getvalue()


def drop_undrawn(pairs: Sequence[Figures]) -> list[Figures]:
    """Return the pairs to count: one of a task on which all of several seeds give both methods the same figures."""
    of_task: dict[str, list[Figures]] = defaultdict(list)
    for pair in pairs:
        of_task[pair[0]].append(pair)
    return [pair for own in of_task.values() for pair in (own if len(set(own)) > 1 else own[:1])]


def _test_items(settings: Sequence[Setting]) -> tuple[list[PairTable], list[str]]:
    tables, unknown = [], 0
    for group in _group(settings, get_panel):
        labels = _label(group)
        pairs = []
        for (a, first), (b, second) in itertools.combinations(zip(labels, group, strict=True), 2):
            found = compare_rows(first.rows, second.rows)
            if found is None:
                unknown += 1
                continue
            shown = found.difference.mean, (found.difference.low, found.difference.high)
            counts = first.rows[0].n_test, found.better, found.worse
            pairs.append(Pair(a, b, *shown, counts, found.p_value))
        ranked = sorted(labels, key=lambda label: -(group[labels.index(label)].mean("top1") or 0.0))
        tables += _make_table("items", group[0].row, ranked, pairs, PANEL)
    words = "of an earlier version or of other data: rows do not know which test items both answered right"
    return tables, [f"{unknown} pair{'s' * (unknown > 1)} not tested, {words}"] * bool(unknown)


def _test_seeds(settings: Sequence[Setting], metric: Metric) -> tuple[list[PairTable], list[str]]:
    shared = tuple(name for name in PANEL if name not in ("dataset", "task"))
    tables, notes = [], []
    for group in _group(settings, lambda row: [getattr(row, name) for name in shared]):
        sign = -1 if is_lower_better(group[0].row, metric) else 1
        place = {id(setting): number for number, setting in enumerate(group)}  # pairs keep the order of the rows
        lines = sorted(make_lines(group), key=lambda line: min(place[id(each)] for each in line.settings.values()))
        methods = [[*line.settings.values()] for line in lines]
        labels = disambiguate([line.label for line in lines], methods)
        values = [_list_values(own, metric) for own in methods]
        pairs, apart = [], 0
        for (a, first), (b, second) in itertools.combinations(zip(labels, values, strict=True), 2):
            shown = [(task, first[task, seed], second[task, seed]) for task, seed in first if (task, seed) in second]
            if not shown:
                apart += 1
                continue
            differences = [sign * (own - other) for _, own, other in drop_undrawn(shown)]
            better, worse = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
            mean, counts = statistics.fmean(own - other for _, own, other in shown), (len(differences), better, worse)
            pairs.append(Pair(a, b, mean, None, counts, compute_sign_test(better, worse)))
        means = {label: _average_tasks(own) for label, own in zip(labels, values, strict=True)}
        tasks = set().union(*means.values())
        whole = [label for label in labels if means[label].keys() == tasks]
        ranked = sorted(whole, key=lambda label: -sign * statistics.fmean(means[label].values()))
        partial = tuple(label for label in labels if label not in whole)
        tables += _make_table("seeds", group[0].row, ranked, pairs, shared, partial)
        notes += [f"{apart} pair{'s' * (apart > 1)} of methods without a common seed and task not tested"] * bool(apart)
    return tables, notes


def _group(settings: Sequence[Setting], key: Callable[[Row], object]) -> list[list[Setting]]:
    groups: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        groups[json.dumps(key(setting.row))].append(setting)
    return list(groups.values())


def _list_values(settings: Sequence[Setting], metric: Metric) -> Values:
    return {
        (json.dumps([row.dataset, row.task, row.data_digest]), row.seed): value
        for setting in settings
        for row in setting.rows
        if (value := get_figure(row, metric)) is not None
    }


def _average_tasks(values: Values) -> dict[str, float]:
    """Average a figure over the seeds of each task."""
    of_task: dict[str, list[float]] = defaultdict(list)
    for (task, _), value in values.items():
        of_task[task].append(value)
    return {task: statistics.fmean(own) for task, own in of_task.items()}


def _label(settings: Sequence[Setting]) -> list[str]:
    return disambiguate([setting.row.label for setting in settings], [[setting] for setting in settings])


def _make_table(
    kind: str, row: Row, ranked: list[str], pairs: list[Pair], shared: Sequence[str], partial: tuple[str, ...] = ()
) -> list[PairTable]:
    """Make a table of pairs with p-values that are corrected for their number; none of no pair."""
    if not pairs:
        return []
    where = ", ".join(text for name, text in describe_panel(row).items() if name in shared)
    return [PairTable(kind, where, correct_for_number(pairs), ranked, partial)]


def correct_for_number(pairs: Sequence[Pair], number: int | None = None) -> list[Pair]:
    """Give each pair the p-value that Holm's correction leaves (`p_holm`).

    Args:
        pairs: of a family of tests.
        number: of the family, where not all are there yet; those that are not count as telling nothing apart.
    """
    corrected, highest = list(pairs), 0.0
    for place, (index, pair) in enumerate(sorted(enumerate(pairs), key=lambda each: each[1].p_value)):
        highest = max(highest, min(1.0, pair.p_value * ((number or len(pairs)) - place)))
        corrected[index] = replace(pair, p_holm=highest)
    return corrected
