"""Which settings one line of a picture joins, and the shortest labels that tell settings apart."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from vision_peft.results.settings import PANEL, Setting, fields_of

# What may change along a line besides the size; where two points of one size differ in these, the line is split.
TUNED_WITH_SIZE = ("alpha", "lr", "weight_decay")
REFERENCES = {"linear": "linear probe", "full": "full fine-tuning"}

Line = tuple[str, list[Setting]]  # label and points, by parameters


def is_reference(setting: Setting, x: str) -> bool:
    """Linear probe, full fine-tuning, and whatever has no place on a logarithmic axis of the field `x`."""
    return setting.row.method in REFERENCES or getattr(setting.row, x) <= 0


def lines_of(panel: Sequence[Setting], x: str, sizes: dict[str, set[tuple]]) -> list[Line]:
    """The lines of one panel, points ordered by the field `x`.

    A line joins the sizes of one method under one recipe; its label holds the size where `sizes`, what each method has
    in the whole figure, says that there is only one.
    """
    groups = []
    for group in _same([setting for setting in panel if not is_reference(setting, x)], free=TUNED_WITH_SIZE):
        one_each = len({setting.row.sizes for setting in group}) == len(group)
        groups += [group] if one_each else _same(group, free=())
    groups = [sorted(group, key=lambda setting: getattr(setting.row, x)) for group in groups]
    first = [group[0].row for group in groups]
    names = [row.label if len(sizes[row.method]) == 1 else row.method for row in first]
    return list(zip(told_apart(names, groups), groups, strict=True))


def references_of(panel: Sequence[Setting], x: str) -> list[Line]:
    """The horizontal lines of one panel, one setting each."""
    groups = [[setting] for setting in panel if is_reference(setting, x)]
    names = [REFERENCES.get(setting.row.method, setting.row.label) for (setting,) in groups]
    return list(zip(told_apart(names, groups), groups, strict=True))


def told_apart(names: Sequence[str], groups: Sequence[Sequence[Setting]]) -> list[str]:
    """The names of groups of settings; equal names on the same task get the fields in which their groups differ.

    ["vpt", "vpt"] becomes ["vpt (deep=False)", "vpt (deep=True)"]. Tuned fields are named only where nothing else
    differs.
    """
    labels = list(names)
    alike = defaultdict(list)
    for place, (name, group) in enumerate(zip(names, groups, strict=True)):
        alike[name, *(getattr(group[0].row, key) for key in PANEL)].append(place)
    for places in alike.values():
        fields = [fields_of(groups[place][0].row) for place in places]
        differing = [name for name in dict.fromkeys(name for own in fields for name in own) if _differs(name, fields)]
        plain = [name for name in differing if name.split(".")[-1] not in TUNED_WITH_SIZE]
        enough = len({_words(own, plain) for own in fields}) == len(fields)
        for place, own in zip(places, fields, strict=True):
            if told := _words(own, plain if enough else differing):
                labels[place] = f"{names[place]} ({told})"
    return labels


def value_text(value: Any) -> str:
    """A field's value as a reader would write it: 0.1, True, [q, v]."""
    return json.dumps(value).replace('"', "") if isinstance(value, (list, tuple, dict)) else str(value)


def _differs(name: str, fields: Sequence[dict[str, Any]]) -> bool:
    return any(own.get(name) != fields[0].get(name) for own in fields)


def _words(own: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={value_text(own[name])}" for name in names if name in own)


def _same(settings: Sequence[Setting], free: tuple[str, ...]) -> list[list[Setting]]:
    """Settings in groups that agree in the method and all fields but the size and those in `free`."""
    groups = defaultdict(list)
    for setting in settings:
        fixed = {name: value for name, value in fields_of(setting.row).items() if name.split(".")[-1] not in free}
        groups[setting.row.method, json.dumps(fixed, sort_keys=True)].append(setting)
    return list(groups.values())
