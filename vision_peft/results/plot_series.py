"""Group settings into the lines of a plot and give them the shortest labels that distinguish them."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from vision_peft.results.settings import PANEL, Setting, flatten_fields

# What may vary along a line besides the size; two points of one size that differ in these split the line.
TUNED_WITH_SIZE = ("alpha", "lr", "weight_decay")
REFERENCES = {"linear": "linear probe", "full": "full fine-tuning"}

Line = tuple[str, list[Setting]]  # label and points, by parameters


def is_reference(setting: Setting, x: str) -> bool:
    """Whether a setting is a horizontal line: a linear probe, full fine-tuning, or 0 on the logarithmic axis `x`."""
    return setting.row.method in REFERENCES or getattr(setting.row, x) <= 0


def build_series(panel: Sequence[Setting], x: str, sizes: dict[str, set[tuple]]) -> list[Line]:
    """Build the lines of one panel, their points ordered by the field `x`.

    A line joins the sizes of one method under one recipe. Its label includes the size if `sizes`, the sizes of each
    method in the whole figure, holds only one.
    """
    groups = []
    for group in _group_settings([setting for setting in panel if not is_reference(setting, x)], free=TUNED_WITH_SIZE):
        one_each = len({setting.row.sizes for setting in group}) == len(group)
        groups += [group] if one_each else _group_settings(group, free=())
    groups = [sorted(group, key=lambda setting: getattr(setting.row, x)) for group in groups]
    first = [group[0].row for group in groups]
    names = [row.label if len(sizes[row.method]) == 1 else row.method for row in first]
    return list(zip(disambiguate(names, groups), groups, strict=True))


def build_references(panel: Sequence[Setting], x: str) -> list[Line]:
    """Build the horizontal lines of one panel, one per setting."""
    groups = [[setting] for setting in panel if is_reference(setting, x)]
    names = [REFERENCES.get(setting.row.method, setting.row.label) for (setting,) in groups]
    return list(zip(disambiguate(names, groups), groups, strict=True))


def disambiguate(names: Sequence[str], groups: Sequence[Sequence[Setting]]) -> list[str]:
    """Append to equal names on the same task the fields in which their groups of settings differ.

    ["vpt", "vpt"] becomes ["vpt (deep=False)", "vpt (deep=True)"]. Tuned fields are named only if nothing else differs.
    """
    labels = list(names)
    alike = defaultdict(list)
    for place, (name, group) in enumerate(zip(names, groups, strict=True)):
        alike[name, *(getattr(group[0].row, key) for key in PANEL)].append(place)
    for places in alike.values():
        fields = [flatten_fields(groups[place][0].row) for place in places]
        differing = [name for name in dict.fromkeys(name for own in fields for name in own) if _differs(name, fields)]
        plain = [name for name in differing if name.split(".")[-1] not in TUNED_WITH_SIZE]
        enough = len({_describe_fields(own, plain) for own in fields}) == len(fields)
        for place, own in zip(places, fields, strict=True):
            if text := _describe_fields(own, plain if enough else differing):
                labels[place] = f"{names[place]} ({text})"
    return labels


def format_value(value: Any) -> str:
    """Format the value of a field: 0.1, True, [q, v]."""
    return json.dumps(value).replace('"', "") if isinstance(value, (list, tuple, dict)) else str(value)


def _differs(name: str, fields: Sequence[dict[str, Any]]) -> bool:
    return any(own.get(name) != fields[0].get(name) for own in fields)


def _describe_fields(own: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={format_value(own[name])}" for name in names if name in own)


def _group_settings(settings: Sequence[Setting], free: tuple[str, ...]) -> list[list[Setting]]:
    """Group settings that agree in the method and in all fields except the size and those in `free`."""
    groups = defaultdict(list)
    for setting in settings:
        fixed = {name: value for name, value in flatten_fields(setting.row).items() if name.split(".")[-1] not in free}
        groups[setting.row.method, json.dumps(fixed, sort_keys=True)].append(setting)
    return list(groups.values())
