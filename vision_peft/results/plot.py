"""Plot accuracy against parameters: one line per method, linear probe and full fine-tuning as horizontal references."""

import math
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vision_peft.printable import for_plot
from vision_peft.protocols import PROTOCOLS
from vision_peft.results.figures import describe_metric, format_number
from vision_peft.results.labels import get_panel
from vision_peft.results.plot_series import Line, build_references, build_series
from vision_peft.results.row import Row
from vision_peft.results.selection import Selection, describe_panel, select_measured
from vision_peft.results.settings import Metric, Setting
from vision_peft.results.table import format_count, write_csv
from vision_peft.safe_files import replacing

# Okabe and Ito's palette for all kinds of colour vision, its yellow (pale on white) replaced by a wine red.
# 8 colours and 7 markers have no common factor: 56 methods look different, and neighbours do so in grey too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = {"linear": (0, (1, 1.5)), "full": (0, (6, 2))}
GREY = "#555555"
ASIDE = 0.025  # of the axis of parameters, from one point to the next of the same number
Panels = dict[tuple[Any, ...], list[Setting]]  # settings by what a panel shares


def plot_accuracy(
    rows: Sequence[Row],
    stem: str | Path,
    metric: Metric = "top1",
    x: Literal["trained", "stored"] = "trained",
    without_row: int = 0,
) -> list[Path]:
    """Draw `<stem>.png` and `<stem>.svg`, write the numbers to `<stem>.csv`, return the three paths.

    One panel per dataset, task, backbone, size of the input and protocol. Points are means, bars standard deviations
    (n - 1) over seeds; a single seed has no bar. Runs without the metric, and those that have not finished, are counted
    below the figure; rows whose epoch was selected on test are hollow and starred. ValueError if no row has the metric.

    Args:
        rows: of runs.
        stem: of the files.
        metric: on the y axis.
        x: parameters that train, or that the adapter stores.
        without_row: runs of which nothing is known but that they have not finished.
    """
    if x not in ("trained", "stored"):
        raise ValueError(f"x must be trained or stored, got {x}")
    selection = select_measured(rows, metric, "plot", without_row)
    panels: Panels = defaultdict(list)
    for setting in selection.measured:
        panels[get_panel(setting.row)].append(setting)
    panels = dict(sorted(panels.items(), key=lambda panel: _order(panel[1][0].row)))

    stem = Path(stem)
    stem = stem.with_suffix("") if stem.suffix in (".png", ".svg", ".csv") else stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg, csv = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg", "csv"))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the same picture whatever the reader's matplotlibrc says
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "vision_peft"})
        figure = _make_figure(panels, selection, metric, f"params_{x}")
        with replacing(png) as file:
            figure.savefig(file, format="png", dpi=200)
        with replacing(svg) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
    write_csv(csv, selection.settings, metric)
    return [png, svg, csv]


def _make_figure(panels: Panels, selection: Selection, metric: Metric, x: str) -> Figure:
    lines = {key: build_series(panel, x, selection.settings) for key, panel in panels.items()}
    labels = sorted({label for panel in lines.values() for label, _ in panel})
    looks = {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(labels)}
    values = [getattr(setting.row, x) for panel in lines.values() for _, points in panel for setting in points]

    columns = min(4, math.ceil(math.sqrt(len(panels))))
    height = math.ceil(len(panels) / columns)
    inches = (5.4, 4.0) if len(panels) == 1 else (3.6, 3.0)
    inches = (inches[0] * columns + 2.0, max(inches[1] * height, 0.22 * len(labels) + 1.0) + 0.3)
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(height, columns, squeeze=False).flat)
    for place, (key, panel) in enumerate(panels.items()):
        axes = grid[place]
        _scale_x(axes, values)
        _draw_lines(axes, lines[key], looks, metric, x)
        _label_axes(axes, panel, metric)
        _draw_references(axes, build_references(panel, x, selection.settings), metric)
        if place % columns == 0:
            axes.set_ylabel(
                for_plot(describe_metric([setting.row for setting in panel], metric, axis=True)), fontsize=9
            )
        if values and place + columns >= len(panels):
            axes.set_xlabel(f"{x.removeprefix('params_')} parameters, head excluded", fontsize=9)
    for axes in grid[len(panels) :]:
        axes.remove()
    if labels:
        joined = {label for panel in lines.values() for label, points in panel if len(points) > 1}
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=5, linestyle="-" if label in joined else "")
            for label, (colour, marker) in looks.items()
        ]
        texts = [for_plot(textwrap.fill(name, 34)) for name in labels]
        figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=8)
    sentences = [*_describe_runs(panels), *(f"{note}." for note in selection.notes)]
    if any(count > 1 for panel in lines.values() for count in _list_alone(panel, x).values()):
        sentences.insert(1, "Points side by side have the same number of parameters.")
    note = textwrap.fill(" ".join(sentences), int(inches[0] * 15))
    figure.supxlabel(for_plot(note), x=0.01, ha="left", fontsize=7, color=GREY)
    return figure


def _draw_lines(axes: Axes, lines: list[Line], looks: dict[str, tuple[str, str]], metric: Metric, x: str) -> None:
    alone = _list_alone(lines, x)
    met: Counter[int] = Counter()
    low, high = axes.get_xlim()
    for label, points in lines:
        colour, marker = looks[label]
        places = [getattr(setting.row, x) for setting in points]
        if len(points) == 1:  # side by side, so that the bars can be read
            beside = met[places[0]] - (alone[places[0]] - 1) / 2
            met[places[0]] += 1
            places = [places[0] * (high / low) ** (ASIDE * beside)]
        means = [setting.mean(metric) or 0.0 for setting in points]
        face = "white" if points[0].row.protocol == "best_test" else colour
        axes.plot(places, means, color=colour, marker=marker, markersize=5.5, markerfacecolor=face, linewidth=1.3)
        for place, mean, setting in zip(places, means, points, strict=True):
            if (std := setting.std(metric)) is not None:
                axes.errorbar(place, mean, yerr=std, color=colour, linewidth=1.1, capsize=2.5, zorder=1.9)
            if len(points) > 1:
                size = "+".join(str(part) for part in setting.row.sizes if part is not None)
                below_right = {"xytext": (4, -4), "textcoords": "offset points", "va": "top", "ha": "left"}
                axes.annotate(for_plot(size), (place, mean), **below_right, fontsize=6.5, color=colour)


def _list_alone(lines: list[Line], x: str) -> Counter[int]:
    """Count the lines of one point at each number of parameters."""
    return Counter(getattr(points[0].row, x) for _, points in lines if len(points) == 1)


def _draw_references(axes: Axes, references: list[Line], metric: Metric) -> None:
    """Draw horizontal lines, their names on the right moved up where they would overlap; y limits must be set."""
    low, high = axes.get_ylim()
    free_from = -math.inf
    for label, (setting,) in sorted(references, key=lambda line: line[1][0].mean(metric) or 0.0):
        mean, std = setting.mean(metric) or 0.0, setting.std(metric)
        axes.axhline(mean, color=GREY, linewidth=1.2, linestyle=DASHES.get(setting.row.method, "dashdot"), zorder=1)
        if std is not None:
            axes.axhspan(mean - std, mean + std, color=GREY, alpha=0.13, linewidth=0, zorder=0)
        text = f"{textwrap.fill(label, 16)}\n{f'{mean:.1f}' if abs(mean) >= 10 else format_number(mean)}"
        half = 0.026 * (text.count("\n") + 1)  # of the axes' height, a little more than the text is high
        centre = max((mean - low) / (high - low), free_from + half)
        free_from = centre + half
        where = {"transform": axes.transAxes, "va": "center", "ha": "left"}
        axes.text(1.015, centre, for_plot(text), **where, fontsize=7.5, color=GREY, linespacing=1.0)


def _label_axes(axes: Axes, panel: list[Setting], metric: Metric) -> None:
    row, about = panel[0].row, describe_panel(panel[0].row)
    title = " ".join(about.pop(name) for name in ("dataset", "task") if name in about)
    axes.set_title(for_plot(title) + "\n", fontsize=10, fontweight="bold", loc="left")
    star = "*" if row.protocol == "best_test" else ""
    above = {"xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
    axes.annotate(for_plot(", ".join(about.values()) + star), (0, 1), **above, fontsize=7.5, color=GREY)
    axes.grid(True, color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    spans = [(setting.mean(metric) or 0.0, setting.std(metric) or 0.0) for setting in panel]
    low, high = min(mean - std for mean, std in spans), max(mean + std for mean, std in spans)
    if not describe_metric([row], metric).endswith("%"):
        pad = max(0.1 * (high - low), 0.02 * abs(high)) or 1.0
        axes.set_ylim(low - pad, high + pad)
        return
    pad = max(0.1 * (high - low), 0.5 * (4.0 - high + low))  # a few tenths of a percent must not fill the picture
    axes.set_ylim(max(low - pad, -1), min(high + pad, 101))


def _scale_x(axes: Axes, values: list[int]) -> None:
    """Set a logarithmic axis over the values of all panels, at least one decade long; none if there are no values."""
    if not values:
        axes.set_xticks([])
        return
    least, most = min(values), max(values)
    pad = max(1.6, math.sqrt(10 * least / most))
    axes.set_xscale("log")
    axes.set_xlim(least / pad, most * pad)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if 10 < most / least < 300 else (1.0, 2.0, 5.0)))
    if most / least >= 300:
        axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value, digits=0)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _describe_runs(panels: Panels) -> list[str]:
    counts = sorted({len(setting.rows) for panel in panels.values() for setting in panel})
    if counts == [1]:
        notes = ["One seed each." if sum(map(len, panels.values())) > 1 else "One seed."]
    else:
        several = [count for count in counts if count > 1]
        span = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
        notes = [f"Mean and standard deviation over {span} seeds" + ("; no bar: one seed." if counts[0] == 1 else ".")]
    if any(panel[0].row.protocol == "best_test" for panel in panels.values()):
        notes.append("* and hollow: epoch selected on test, not comparable with the others.")
    return notes


def _order(row: Row) -> tuple[Any, ...]:
    """Order panels by name, then from small inputs to large ones."""
    size = (row.img_size,) * 2 if isinstance(row.img_size, int) else tuple(row.img_size)
    named = row.dataset, row.task or "", row.backbone
    return *named, PROTOCOLS.index(row.protocol), size, row.num_frames or 0
