"""Divide settings into the panels of a plot, and say what is in none of them."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vision_peft.printable import name_some
from vision_peft.protocols import PROTOCOLS
from vision_peft.results.labels import get_panel
from vision_peft.results.plots.axes import XAxis
from vision_peft.results.plots.pareto import find_front, shares_data
from vision_peft.results.plots.series import Line, build_references, build_series, is_reference
from vision_peft.results.row import Row
from vision_peft.results.selection import Selection, describe_panel
from vision_peft.results.settings import Metric, Setting

MOST_NAMED = 8  # settings without the number of the x axis that a note names


@dataclass(frozen=True)
class Panel:
    """What is drawn side by side: settings of one dataset, task, backbone, size of the input and protocol."""

    lines: list[Line]  # of methods
    references: list[Line]  # horizontal, of one setting each
    front: list[Setting]  # Pareto front by rising cost; empty where none was asked for
    device: str | None  # where it matters

    @property
    def settings(self) -> list[Setting]:
        """List all of them."""
        return [setting for _, points in (*self.lines, *self.references) for setting in points]

    @property
    def row(self) -> Row:
        """Give any of the rows, for what all of them share."""
        return self.settings[0].row

    def describe(self) -> dict[str, str]:
        """Describe each of the things that its settings share."""
        about = describe_panel(self.row)
        if self.row.protocol == "best_test":
            about["protocol"] += "*"
        return about | ({} if self.device is None else {"device": self.device})


def split_by_device(selection: Selection) -> Selection:
    """Take seeds of one setting that ran on different devices apart, for axes that compare times or memory."""
    settings = []
    for setting in selection.settings:
        rows: dict[str, list[Row]] = defaultdict(list)
        for row in setting.rows:
            rows[row.device].append(row)
        parts = [Setting(tuple(own)) for own in rows.values()] or [setting]
        settings += [dataclasses.replace(parts[0], lost=setting.lost), *parts[1:]]
    return Selection(settings, selection.notes)


def build_panels(selection: Selection, axis: XAxis, metric: Metric, pareto: bool) -> tuple[list[Panel], list[str]]:
    """Build the panels in the order in which they are drawn, and notes on what has no place in them.

    Raises:
        ValueError: no setting has the number of the x axis, and none is a reference.
    """
    groups: dict[tuple[Any, ...], list[Setting]] = defaultdict(list)
    without: list[Setting] = []
    for setting in selection.measured:
        if axis.get(setting) is None and not is_reference(setting, axis):
            without.append(setting)
        else:
            groups[*get_panel(setting.row), *([setting.row.device] if axis.of_machine else [])].append(setting)
    notes = _describe_without(without, axis)
    if not groups:
        raise ValueError(f"nothing to plot: {'; '.join(notes)}")
    panels = []
    for settings in groups.values():
        front = find_front(settings, axis, metric) if pareto and shares_data(settings) else []
        panels.append(
            Panel(
                build_series(settings, axis, selection.settings),
                build_references(settings, axis, selection.settings),
                front,
                settings[0].row.device if axis.of_machine else None,
            )
        )
    if pareto and any(not shares_data(panel.settings) for panel in panels):
        notes.append("no Pareto front where settings were trained or tested on different data")
    return sorted(panels, key=_order), notes


def _describe_without(settings: Sequence[Setting], axis: XAxis) -> list[str]:
    if not settings:
        return []
    names = name_some(list(dict.fromkeys(setting.row.label for setting in settings)), MOST_NAMED)
    kept = axis.of_update and any(row.reused_features for setting in settings for row in setting.rows)
    why = " (steps on kept features are no steps of the model)" if kept else ""
    count = f"{len(settings)} setting{'s' * (len(settings) > 1)}"
    return [f"{count} without {axis.field} left out{why}: {names}"]


def _order(panel: Panel) -> tuple[Any, ...]:
    """Order panels by name, then from small inputs to large ones."""
    row = panel.row
    size = (row.img_size,) * 2 if isinstance(row.img_size, int) else tuple(row.img_size)
    named = row.dataset, row.task or "", row.backbone
    return *named, PROTOCOLS.index(row.protocol), size, row.num_frames or 0, panel.device or ""
