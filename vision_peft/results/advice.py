"""A few sentences on a comparison of methods, drawn from its figures alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vision_peft.printable import capitalise
from vision_peft.results.comparison import Entry, format_figure, list_done
from vision_peft.results.figures import get_figure
from vision_peft.results.intervals import Comparison, compare_rows, find_interval
from vision_peft.results.row import Row
from vision_peft.results.table import format_seconds

WORTH_SAYING = 2  # times less time, or bytes; what takes fewer than so many times the least is as small


@dataclass(frozen=True)
class Advice:
    """What the figures say."""

    sentences: list[str]
    suggested: Entry | None  # of the smallest adapters that are as good as the best, as far as test knows


def advise(entries: Sequence[Entry]) -> Advice:
    """Say which method is best on test, which smaller ones cannot be told from it, and what beats a frozen backbone.

    Two methods are told apart by the sign test on the test items, at 5 % each. What is not told from the best is not
    for that as good: suggested is what lies within the interval of the best, too. Where the rows do not know which
    items were right, figures are only put in their order.
    """
    done = list_done(entries)
    if not done:
        return Advice([], None)
    best, best_row = max(done, key=lambda pair: _rank(pair[1]))
    if len(done) == 1:
        return Advice([f"Only {best.name} was compared: {format_figure(best_row)}."], best)
    sentences = [capitalise(f"{best.name} is best on test: {format_figure(best_row)}.")]
    tests = {entry.name: compare_rows([row], [best_row]) for entry, row in done}
    if any(test is None for test in tests.values()):
        sentences.append("Whether the others differ from it by more than chance is not known for this kind of task.")
        return Advice(sentences, best)
    equal = [(entry, row) for entry, row in done if not _differs(tests[entry.name])]
    alike = [(entry, row) for entry, row in equal if entry is best or _place(row, best_row) == "within"]
    least = min(row.adapter_bytes for _, row in alike)
    small = [(entry, row) for entry, row in alike if row.adapter_bytes < WORTH_SAYING * max(least, 1)]
    smallest, smallest_row = max(small, key=lambda pair: (_rank(pair[1]), -pair[1].adapter_bytes))
    sentences += _describe_unbeaten(done, best)
    if smallest is not best:
        sentences.append(_describe_smaller(smallest, smallest_row, best, best_row, tests[smallest.name]))
    sentences += _describe_largest(smallest, smallest_row, best, done)
    quickest, quickest_row = min(alike, key=lambda pair: _seconds(pair[0]))
    saves = math.isfinite(_seconds(best)) and WORTH_SAYING * _seconds(quickest) <= _seconds(best)
    if saves and quickest not in (smallest, best):
        sentences.append(
            f"{capitalise(quickest.name)} ({format_figure(quickest_row, False)}) cannot be told from {best.name} "
            f"either and took the least time, search included: {format_seconds(_seconds(quickest))} instead of "
            f"{format_seconds(_seconds(best))}."
        )
    lower = [f"{entry.name} ({_describe_p(tests[entry.name])})" for entry, row in equal if (entry, row) not in alike]
    if lower:
        sentences.append(f"Not told from {best.name}, but below its interval: {', '.join(lower)}.")
    worse = [f"{entry.name} ({_describe_p(test)})" for entry, _ in done if _differs(test := tests[entry.name])]
    if worse:
        sentences.append(f"Worse than {best.name} beyond chance: {', '.join(worse)}.")
    return Advice(sentences, smallest)


def _describe_unbeaten(done: Sequence[tuple[Entry, Row]], best: Entry) -> list[str]:
    """Say so where nothing that changes the backbone beats what leaves it as it is beyond chance."""
    frozen, changed = ([pair for pair in done if bool(pair[1].params_trained) == side] for side in (False, True))
    if not frozen or not changed:
        return []
    probe, probe_row = max(frozen, key=lambda pair: _rank(pair[1]))
    if probe is best:
        return ["It leaves the backbone as it is: nothing that changes the backbone beats it."]
    better = [pair for pair in changed if _rank(pair[1]) >= _rank(probe_row)]
    tests = [(entry, compare_rows([row], [probe_row])) for entry, row in better]
    if any(_differs(test) for _, test in tests):
        return []
    nearest, test = min(tests, key=lambda pair: pair[1].p_value if pair[1] else 1.0)
    return [
        f"Nothing that changes the backbone beats {probe.name} ({format_figure(probe_row, False)}), which leaves it as "
        f"it is, beyond chance: {nearest.name} is nearest to it ({_describe_test(test)})."
    ]


def _describe_smaller(entry: Entry, row: Row, best: Entry, best_row: Row, test: Comparison | None) -> str:
    costs = [f"{_describe_ratio(row.adapter_bytes, best_row.adapter_bytes)} of its bytes"]
    if row.params_stored < best_row.params_stored and row.params_stored:
        costs.append(f"{_describe_ratio(row.params_stored, best_row.params_stored)} of its stored parameters")
    return (
        f"{capitalise(entry.name)} ({format_figure(row, False)}) cannot be told from {best.name} "
        f"({_describe_test(test)}) at "
        f"{' and '.join(costs)}."
    )


def _describe_largest(entry: Entry, row: Row, best: Entry, done: Sequence[tuple[Entry, Row]]) -> list[str]:
    """Set the suggested method beside the largest adapter, which full fine-tuning has where it was compared."""
    largest, largest_row = max(done, key=lambda pair: pair[1].adapter_bytes)
    interval, place = find_interval(largest_row), _place(row, largest_row)
    if (
        largest in (entry, best)
        or interval is None
        or place is None
        or row.adapter_bytes * WORTH_SAYING > largest_row.adapter_bytes
    ):
        return []
    share = _describe_ratio(row.adapter_bytes, largest_row.adapter_bytes)
    bounds = f"{interval.low:.1f} to {interval.high:.1f}"
    return [f"{capitalise(entry.name)} is {place} the interval of {largest.name} ({bounds}) at {share} of the bytes."]


def _place(row: Row, other: Row) -> str | None:
    """Say where a figure lies, seen from the interval of another one: within, above or below; None if not known."""
    interval, value = find_interval(other), get_figure(row, row.metric)
    if interval is None or value is None:
        return None
    return "within" if value in interval else "above" if value > interval.high else "below"


def _describe_ratio(part: float, whole: float) -> str:
    """Write a share as people say it: 1/300, 1/4, 70 %."""
    if not part or part >= 0.67 * whole:
        return f"{100 * part / whole if whole else 100:.0f} %"
    times = whole / part
    return f"1/{times:.0f}" if times < 100 else f"1/{float(f'{times:.2g}'):,.0f}"


def _describe_test(test: Comparison | None) -> str:
    if test is None:
        return "not tested"
    return f"{_describe_p(test)}: it alone is right on {test.better} test items, the other on {test.worse}"


def _describe_p(test: Comparison | None) -> str:
    if test is None:
        return "not tested"
    return "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.2g}"


def _differs(test: Comparison | None) -> bool:
    return test is not None and test.differs


def _rank(row: Row) -> float:
    value = get_figure(row, row.metric)
    return float("-inf") if value is None else -value if row.lower_is_better else value


def _seconds(entry: Entry) -> float:
    return float("inf") if entry.search_s is None else entry.search_s
