"""Bounds on a row that comes from someone else, so that tables and pictures of it take no longer than of a true one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vision_peft.printable import printable

MAX_KEYS = 1000  # of a row, those of other versions among them
MAX_TEXT = 10_000  # letters of a name
MAX_DEPTH = 10
MAX_METHODS = 32
MAX_HARDEST = 12
MAX_FIGURES = 100
LARGEST = 1e100  # of a number, either way: sums and squares of such still are numbers
# Values in all, by field; elsewhere MAX_KEYS. Class by class there are 100,000 at most, or 400 x 400.
MAX_VALUES = {"per_class": 10**6, "confusion": 10**6, "curve": 10**6, "settings": 10**6, "tried": 10**6}
MAX_LETTERS = {"command": 10**6, "correct": 10**7}  # a weight for each class; a bit for each of 60 million items
MAX_LETTERS |= {"figures": 200, "figure_words": 200}
ACCURACIES = ("top1", "top5", "mean_per_class")  # figures that are fields of a row


def bound_problems(data: Mapping[str, Any]) -> list[str]:
    """Describe what in the fields of a row is longer, deeper or more than in any that a run writes."""
    if len(data) > MAX_KEYS:
        return [f"it has {len(data):,} keys, wanted at most {MAX_KEYS:,}"]
    problems = [f"{printable(name)} {text}" for name, value in data.items() if (text := _problem(name, value))]
    methods = data.get("methods")
    if isinstance(methods, list) and len(methods) > MAX_METHODS:
        problems.append(f"methods lists {len(methods):,} of them, wanted at most {MAX_METHODS}")
    for name in ("figures", "figure_words"):
        if isinstance(found := data.get(name), dict) and len(found) > MAX_FIGURES:
            problems.append(f"{name} has {len(found):,} keys, wanted at most {MAX_FIGURES}")
    problems += _hardest_problems(data.get("hardest"))
    for name in ("settings", "tried"):
        if isinstance(keys := data.get(name), dict) and len(keys) > MAX_KEYS:
            problems.append(f"{name} has {len(keys):,} keys, wanted at most {MAX_KEYS:,}")
    return problems


def metric_problems(data: Mapping[str, Any], taken: Callable[[str], bool]) -> list[str]:
    """Describe what is wrong with the names of figures, of a row whose fields have their types.

    Args:
        data: the row.
        taken: whether a row has something else of that name, which is no figure of test.
    """
    named = {**data.get("figure_words", {}), **data.get("figures", {})}
    problems = [
        f"figures and figure_words must have names of their own, got {name}"
        for name in named
        if name not in ACCURACIES and taken(name)
    ]
    known, metric = dict.fromkeys((*ACCURACIES, *named)), data.get("metric", ACCURACIES[0])
    if metric not in known:
        names = ", ".join(printable(name) for name in known)
        problems.append(f"metric must be one of the figures {names}, got {printable(metric) or 'an empty text'}")
    return problems


def _hardest_problems(found: Any) -> list[str]:
    """Describe what is wrong with the list of surest wrong answers; its own type is not looked at."""
    if not isinstance(found, list):
        return []
    if len(found) > MAX_HARDEST:
        return [f"hardest lists {len(found):,} items, wanted at most {MAX_HARDEST}"]
    for each in found:
        match each:
            case {"item": str(), "true": str(), "answered": str(), "confidence": int() | float() as sure, **other}:
                if not other and type(sure) is not bool and 0 <= sure <= 1:
                    continue
        wanted = "item, true and answered (texts) and confidence (0 to 1)"
        return [f"hardest must list objects of {wanted}, got {printable(each, 40)}"]
    return []


def _problem(name: str, value: Any) -> str | None:
    most, letters = MAX_VALUES.get(name, MAX_KEYS), MAX_LETTERS.get(name, MAX_TEXT)
    for count, (each, depth) in enumerate(_walk([name, value])):
        if count > most:
            return f"holds more than {most:,} values"
        if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} deep"
        if isinstance(each, str) and len(each) > letters:
            return f"holds a text of {len(each):,} letters, wanted at most {letters:,}"
        if isinstance(each, float) and abs(each) > LARGEST:
            return f"holds the number {each:g}, wanted at most {LARGEST:g} either way"
    return None


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Every key and value inside, with its depth."""
    waiting = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        yield each, depth
        if isinstance(each, dict):
            waiting += [(item, depth + 1) for pair in each.items() for item in pair]
        elif isinstance(each, list):
            waiting += [(item, depth + 1) for item in each]
