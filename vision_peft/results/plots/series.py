"""Group settings into the lines of a plot and give them the shortest labels that distinguish them."""

import json
from collections import defaultdict
from collections.abc import Sequence

from vision_peft.results.labels import disambiguate, list_tuned
from vision_peft.results.plots.axes import XAxis
from vision_peft.results.settings import Setting, list_method_fields, list_settings

REFERENCES = ("linear", "full")  # what every other method is compared with

Line = tuple[str, list[Setting]]  # label and points, from small sizes to large ones


def is_reference(setting: Setting, axis: XAxis) -> bool:
    """Whether a setting is a horizontal line: linear probe, full fine-tuning, or 0 parameters on a logarithmic axis."""
    return setting.row.method in REFERENCES or (axis.is_count and (axis.get(setting) or 0) <= 0)


def build_series(panel: Sequence[Setting], axis: XAxis, among: Sequence[Setting]) -> list[Line]:
    """Build the lines of one panel.

    A line joins the sizes of one method under one recipe, from few trained parameters to many, whatever else they cost.
    Its label includes the size if the method has only one in the whole figure, and what its settings do not share with
    the others.

    Args:
        panel: its settings, all of which have the number of the axis.
        axis: the x axis.
        among: the settings of the whole figure.
    """
    groups = []
    for group in _group_settings([setting for setting in panel if not is_reference(setting, axis)], tuned=True):
        one_each = len({setting.row.sizes for setting in group}) == len(group)
        groups += [group] if one_each else _group_settings(group, tuned=False)
    groups = [sorted(group, key=lambda setting: setting.mean("params_trained") or 0.0) for group in groups]
    return _name_lines(groups, among)


def build_references(panel: Sequence[Setting], axis: XAxis, among: Sequence[Setting]) -> list[Line]:
    """Build the horizontal lines of one panel, one per setting; `among` are the settings of the whole figure."""
    return _name_lines([[setting] for setting in panel if is_reference(setting, axis)], among)


def _name_lines(groups: list[list[Setting]], among: Sequence[Setting]) -> list[Line]:
    sizes = defaultdict(set)
    for setting in among:
        sizes[setting.row.title].add(setting.row.sizes)
    first = [group[0].row for group in groups]
    names = [row.label if len(sizes[row.title]) == 1 else row.title for row in first]
    return list(zip(disambiguate(names, groups, among), groups, strict=True))


def _group_settings(settings: Sequence[Setting], tuned: bool) -> list[list[Setting]]:
    """Group settings that agree in the method and in all fields except the size and, if `tuned`, what val chose."""
    groups = defaultdict(list)
    for setting in settings:
        free = list_tuned(setting.row) if tuned else ()
        fields = {**list_method_fields(setting.row), **list_settings(setting.row)}
        fixed = {name: value for name, value in fields.items() if name.split(".")[-1] not in free}
        groups[setting.row.title, json.dumps(fixed, sort_keys=True)].append(setting)
    return list(groups.values())
