"""Group settings into the lines of a plot and give them the shortest labels that distinguish them."""

import json
from collections import defaultdict
from collections.abc import Sequence

from vision_peft.results.labels import TUNED_WITH_SIZE, disambiguate
from vision_peft.results.settings import Setting, list_method_fields, list_settings

REFERENCES = ("linear", "full")  # what every other method is compared with

Line = tuple[str, list[Setting]]  # label and points, by parameters


def is_reference(setting: Setting, x: str) -> bool:
    """Whether a setting is a horizontal line: a linear probe, full fine-tuning, or 0 on the logarithmic axis `x`."""
    return setting.row.method in REFERENCES or getattr(setting.row, x) <= 0


def build_series(panel: Sequence[Setting], x: str, among: Sequence[Setting]) -> list[Line]:
    """Build the lines of one panel, their points ordered by the field `x`.

    A line joins the sizes of one method under one recipe. Its label includes the size if the method has only one in the
    whole figure, and what its settings do not share with the others.

    Args:
        panel: its settings.
        x: field of a row.
        among: the settings of the whole figure.
    """
    groups = []
    for group in _group_settings([setting for setting in panel if not is_reference(setting, x)], free=TUNED_WITH_SIZE):
        one_each = len({setting.row.sizes for setting in group}) == len(group)
        groups += [group] if one_each else _group_settings(group, free=())
    groups = [sorted(group, key=lambda setting: getattr(setting.row, x)) for group in groups]
    sizes = defaultdict(set)
    for setting in among:
        sizes[setting.row.title].add(setting.row.sizes)
    first = [group[0].row for group in groups]
    names = [row.label if len(sizes[row.title]) == 1 else row.title for row in first]
    return list(zip(disambiguate(names, groups, among), groups, strict=True))


def build_references(panel: Sequence[Setting], x: str, among: Sequence[Setting]) -> list[Line]:
    """Build the horizontal lines of one panel, one per setting; `among` are the settings of the whole figure."""
    groups = [[setting] for setting in panel if is_reference(setting, x)]
    names = [setting.row.label for (setting,) in groups]
    return list(zip(disambiguate(names, groups, among), groups, strict=True))


def _group_settings(settings: Sequence[Setting], free: tuple[str, ...]) -> list[list[Setting]]:
    """Group settings that agree in the method and in all fields except the size and those in `free`."""
    groups = defaultdict(list)
    for setting in settings:
        fields = {**list_method_fields(setting.row), **list_settings(setting.row)}
        fixed = {name: value for name, value in fields.items() if name.split(".")[-1] not in free}
        groups[setting.row.method, json.dumps(fixed, sort_keys=True)].append(setting)
    return list(groups.values())
