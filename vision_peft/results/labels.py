"""Labels that tell settings apart, and say in what they differ from those beside them."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from vision_peft.printable import printable
from vision_peft.results.figures import is_tested
from vision_peft.results.method_titles import ATTENTIVE
from vision_peft.results.row import Row
from vision_peft.results.settings import PANEL, TUNED, WEIGHTS, Setting, list_method_fields, list_settings

# What may vary along a line besides the size; two points of one size that differ in these split the line.
TUNED_WITH_SIZE = ("alpha", *TUNED)
DEFAULTS = {"head": "linear"}  # of settings that every row names: what goes without saying where most share no value
PATHS = ("penalty", "k")  # that entries of a curve may stand for in place of epochs, see `find_path`
LONGEST_VALUE = 80  # letters in a label
MOST_WORDS = 20  # that differ, in a label
Fields = Mapping[str, Any]


def disambiguate(
    names: Sequence[str], groups: Sequence[Sequence[Setting]], among: Sequence[Setting] | None = None
) -> list[str]:
    """Append to names what their settings do not share with the others on the same panel.

    Of three lines, ["SSF", "SSF", "LoRA-8"] becomes ["SSF (a=1)", "SSF (a=2)", "LoRA-8 (mixup=0.8)"]:
    fields of methods are named where equal names differ in them, other settings where the value is neither the default
    nor that of most lines. Tuned fields, which each method has of its own, and what a search of any of the rows
    chose on val are named only where nothing else tells equal names apart.

    Args:
        names: of each group of settings.
        groups: settings that share all but their size and what is tuned with it.
        among: all settings of the figure or table that shows the labels; by default those of `groups`.
    """
    rows = [group[0].row for group in groups]
    shown = [setting.row for setting in among or [each for group in groups for each in group]]
    tuned = {name for row in shown for name in list_tuned(row)}
    usual = _find_usual(shown, tuned)
    labels = _tell_apart(names, rows, [_drop(list_method_fields(row), tuned) for row in rows])
    settled = {"data"} if _only_trials_differ_in_data(shown) else set[str]()
    usual = {key: value for key, value in usual.items() if key not in settled}
    marks = [_describe_unusual(_drop(list_settings(row), _list_implied(row)), usual) for row in rows]
    labels = [_append(label, own) for label, own in zip(labels, marks, strict=True)]
    every = [list_method_fields(row) | list_settings(row) for row in rows]
    labels = _tell_apart(labels, rows, [{key: own[key] for key in own if key not in settled} for own in every])
    labels = _tell_apart(labels, rows, [{"setting": row.setting, **(row.settings or {})} for row in rows])
    return _tell_apart(labels, rows, every)


def format_value(value: Any) -> str:
    """Format the value of a field: 0.1, True, [q, v]; the middle of a long one is left out."""
    text = json.dumps(value).replace('"', "") if isinstance(value, (list, tuple, dict)) else str(value)
    return printable(text, LONGEST_VALUE)


def format_tried(value: Any) -> str:
    """Format a value that a search tried: a float in three digits, 0.1 and not 0.09999999999999999."""
    return f"{value:.3g}" if isinstance(value, float) else format_value(value)


def cut(words: Sequence[str]) -> list[str]:
    """Return the words that a reader will want to see of many, and how many more there are."""
    more = len(words) - MOST_WORDS
    return [*words[:MOST_WORDS], *([f"{more} more"] if more > 0 else [])]


def list_searched(row: Row) -> list[str]:
    """List what a search chose on val: "lr", "epochs"."""
    return list(dict.fromkeys(key.rpartition(".")[2] for key in row.tried or {}))


def list_tried(row: Row) -> dict[str, list[Any]]:
    """List the values that were compared on val, by their key: those of a search, or what a head was solved along."""
    if row.tried:
        return {key: list(values) for key, values in row.tried.items()}
    path = find_path(row)
    return {} if path is None else {path: [entry[path] for entry in row.curve if path in entry]}


def find_path(row: Row) -> str | None:
    """Find what stands in place of epochs: "penalty" of a head that is solved for, "k" of k-NN; None of any other."""
    return next((key for key in PATHS if row.curve and key in row.curve[0]), None)


def list_tuned(row: Row) -> tuple[str, ...]:
    """List what each method has of its own besides its size: what papers choose for it, and what val chose."""
    return (*TUNED_WITH_SIZE, *list_searched(row))


def get_panel(row: Row) -> tuple[Any, ...]:
    """Return what the rows of one panel agree in."""
    return tuple(json.dumps(getattr(row, name)) for name in PANEL)


def _only_trials_differ_in_data(rows: Sequence[Row]) -> bool:
    """Tell whether data differ on no panel but between trials and runs that read test, which trials lack."""
    found: dict[tuple, set[str | None]] = defaultdict(set)
    for row in rows:
        found[get_panel(row), is_tested(row)].add(row.data_digest)
    return all(len(digests) == 1 for digests in found.values())


def _find_usual(rows: Sequence[Row], tuned: set[str]) -> dict[str, str | None]:
    """Find the settings that differ on a panel, and the value, as text, that goes without saying.

    It is what more than half of the rows have. Where there is no such value it is the default of the setting, or None
    where that is not known; so too where rows that do not name the setting have its default.
    """
    fields = [_drop(list_settings(row), tuned | _list_implied(row)) for row in rows]
    of_panel: dict[tuple, list[Fields]] = defaultdict(list)
    for row, own in zip(rows, fields, strict=True):
        of_panel[get_panel(row)].append(own)
    usual: dict[str, str | None] = {}
    for key in dict.fromkeys(key for own in fields for key in own):
        if any(_differs(key, beside) for beside in of_panel.values()):
            asked = [own for row, own in zip(rows, fields, strict=True) if key not in _list_implied(row)]
            value, count = Counter(_get_text(own, key) for own in asked).most_common(1)[0]
            named_by_all = all(key in own for own in asked)
            usual[key] = value if named_by_all and 2 * count > len(asked) else DEFAULTS.get(key)
    return usual


def _describe_unusual(own: Fields, usual: Mapping[str, str | None]) -> list[str]:
    """Describe the fields that do not go without saying."""
    return [
        f"{key}={format_value(own[key])}"
        for key, value in usual.items()
        if key in own and format_value(own[key]) != value
    ]


def _tell_apart(labels: Sequence[str], rows: Sequence[Row], fields: Sequence[Fields]) -> list[str]:
    """Append to labels that are equal on their panel the `fields` in which their rows differ."""
    alike: dict[tuple, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        alike[labels[place], get_panel(row)].append(place)
    told = list(labels)
    for places in alike.values():
        beside = [fields[place] for place in places]
        keys = [key for key in dict.fromkeys(key for own in beside for key in own) if _differs(key, beside)]
        for place, own in zip(places, beside, strict=True):
            told[place] = _append(told[place], [f"{key}={_get_text(own, key)}" for key in keys if key in own])
    return told


def _append(label: str, words: Sequence[str]) -> str:
    """Append words in parentheses, or to those that are there; of very many the first."""
    if not words:
        return label
    text = ", ".join(cut(words))
    return f"{label[:-1]}, {text})" if label.endswith(")") else f"{label} ({text})"


def _list_implied(row: Row) -> set[str]:
    """List the settings that go without saying.

    The title tells the head that a method brings, and that of an attentive probe. What is solved along a path has no
    epochs of training: theirs is the length of the path.
    """
    told = {"head"} if row.head == row.method or (row.method, row.head) == ("linear", ATTENTIVE) else set[str]()
    return told if find_path(row) is None else told | {"epochs"}


def _drop(fields: Fields, names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key.split(".")[-1] not in names | {WEIGHTS}}


def _differs(key: str, beside: Sequence[Fields]) -> bool:
    return len({_get_text(own, key) for own in beside}) > 1


def _get_text(own: Fields, key: str) -> str:
    return format_value(own[key]) if key in own else "default"
