"""Put panels, the legend and notes on a picture of a given width, whose height is what they need."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from vision_peft.printable import for_plot
from vision_peft.results.figures import describe_metric
from vision_peft.results.plots.axes import XAxis
from vision_peft.results.plots.draw import draw_panel, label_panel, scale_x
from vision_peft.results.plots.looks import (
    GREY,
    LETTERS,
    POINTS,
    SMALL,
    enlarge,
    give_dash,
    give_looks,
    measure_text,
    wrap_text,
)
from vision_peft.results.plots.panels import Panel
from vision_peft.results.plots.series import REFERENCES
from vision_peft.results.selection import name_data
from vision_peft.results.settings import Metric

NARROWEST_PANEL = 1.45  # inches, type at the size on paper
MOST_COLUMNS = 4
EDGE = 3.0  # points around the picture
LINE = 1.25  # height of a line of text, in sizes of its letters
SAMPLE = 26.0  # points of a line in the legend, with what is around it
USUAL = [(method, "linear") for method in REFERENCES]  # method and head of the references of every comparison
MOST_SHARES = 4  # of the width, that the longest label of a legend may be broken to


@dataclass(frozen=True)
class Entry:
    """One line of the legend."""

    handle: Artist
    lines: list[str]


def compose(panels: Sequence[Panel], notes: Sequence[str], axis: XAxis, metric: Metric, width: float) -> Figure:
    """Draw the whole picture.

    Args:
        panels: in their order.
        notes: sentences below the picture.
        axis: the x axis.
        metric: on the y axes.
        width: of the picture, inches.
    """
    large = enlarge(width)
    across = width * POINTS - 2 * EDGE
    columns = _count_columns(len(panels), width / large)
    rows = math.ceil(len(panels) / columns)
    inside = (
        across / columns - (34 if columns == 1 else 24) * large
    )  # points of a panel, without the ticks of its y axis

    shared, own = _share(panels)
    header = wrap_text(", ".join(shared), across, SMALL * large)
    footer = wrap_text(" ".join(notes), across, SMALL * large)
    entries, legend_columns, legend_height = _arrange_legend(panels, across, large)
    above = max(_count_lines(panel, own, inside, large) for panel in panels)
    panel_height = inside * (0.68 if len(panels) == 1 else 0.8) + above + 14 * large
    top, bottom = LINE * SMALL * large * len(header) + EDGE, LINE * SMALL * large * len(footer) + EDGE
    words = 1.6 * LETTERS * large if _list_places(panels, axis) else 0.0  # below the x axis
    base = bottom + legend_height + 6 * large + words
    high = top + rows * panel_height + base

    figure = Figure(figsize=(width, high / POINTS))
    FigureCanvasAgg(figure)
    rect = (EDGE / (across + 2 * EDGE), base / high, across / (across + 2 * EDGE), (high - top - base) / high)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=rect, w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02))
    _draw_panels(figure, panels, (rows, columns), own, axis, metric, inside, large)
    small = {
        "fontsize": SMALL * large,
        "color": GREY,
        "ha": "left",
        "va": "top",
        "linespacing": 1.1,
        "in_layout": False,
    }
    left = EDGE / (across + 2 * EDGE)
    for place, line in enumerate(header):
        figure.text(left, 1 - (EDGE + LINE * SMALL * large * place) / high, for_plot(line), **small)
    for place, line in enumerate(footer):
        figure.text(left, (bottom - LINE * SMALL * large * place) / high, for_plot(line), **small)
    if words:
        middle = {"ha": "center", "va": "top", "fontsize": LETTERS * large, "in_layout": False}
        figure.text(0.5, base / high, for_plot(axis.words), **middle)
    if entries:
        legend = figure.legend(
            [entry.handle for entry in entries],
            [for_plot("\n".join(entry.lines)) for entry in entries],
            loc="upper left",
            bbox_to_anchor=(left, (bottom + legend_height + 2 * large) / high),
            ncols=legend_columns,
            frameon=False,
            fontsize=LETTERS * large,
            borderpad=0,
            borderaxespad=0,
            labelspacing=0.25,
            handlelength=2.4,
            handletextpad=0.6,
            columnspacing=1.2,
        )
        legend.set_in_layout(False)
    return figure


def _draw_panels(
    figure: Figure,
    panels: Sequence[Panel],
    grid: tuple[int, int],
    own: Sequence[str],
    axis: XAxis,
    metric: Metric,
    inside: float,
    large: float,
) -> None:
    looks = give_looks(_list_lines(panels))
    dashes = _list_references(panels)
    values, bars = _list_places(panels, axis), _list_ends(panels, axis)
    rows, columns = grid
    title = describe_metric([panel.row for panel in panels], metric, axis=True)
    words = wrap_text(title, 0.8 * inside, LETTERS * large)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (axes, panel) in enumerate(zip(every, panels, strict=False)):
        scale_x(axes, values, axis, inside, large, bars)
        draw_panel(axes, panel, looks, dashes, axis, metric, large)
        label_panel(axes, panel, own, inside, large)
        if place % columns == 0:
            axes.set_ylabel("\n".join(map(for_plot, words)), fontsize=LETTERS * large, labelpad=2 * large)
        if place + columns < len(panels):
            axes.tick_params(labelbottom=False)
    for axes in every[len(panels) :]:
        axes.remove()


def _count_columns(number: int, width: float) -> int:
    """Return how many panels stand side by side, so that rows are filled evenly."""
    most = max(1, min(MOST_COLUMNS, int(width / NARROWEST_PANEL)))
    return math.ceil(number / math.ceil(number / most))


def _share(panels: Sequence[Panel]) -> tuple[list[str], list[str]]:
    """Return what all panels share, and the names of what tells them apart besides dataset and task."""
    told = [panel.describe() for panel in panels]
    names = [name for name in dict.fromkeys(name for of in told for name in of) if name not in ("dataset", "task")]
    own = [name for name in names if len({of.get(name) for of in told}) > 1]
    return [told[0][name] for name in names if name not in own], own


def _list_places(panels: Sequence[Panel], axis: XAxis) -> list[float]:
    """List what has a place on the x axis: references on one of parameters have none."""
    lines = [line for panel in panels for line in (*panel.lines, *(() if axis.is_count else panel.references))]
    return [x for _, points in lines for setting in points if (x := axis.get(setting)) is not None]


def _list_ends(panels: Sequence[Panel], axis: XAxis) -> list[float]:
    """List where bars along the x axis end."""
    settings = [setting for panel in panels for _, points in panel.lines for setting in points]
    spreads = [(axis.get(setting) or 0.0, axis.spread(setting)) for setting in settings]
    return [end for x, spread in spreads if spread is not None for end in (x - spread, x + spread)]


def _list_lines(panels: Sequence[Panel]) -> list[str]:
    """List the labels of lines, last those that some axes do not have as lines: thus the others keep their looks."""
    rows = {label: points[0].row for panel in panels for label, points in panel.lines}
    return sorted(rows, key=lambda label: (rows[label].reused_features or not rows[label].params_trained, label))


def _list_references(panels: Sequence[Panel]) -> list[str]:
    """List the labels of references, those of every comparison first: they look the same in all its pictures."""
    rows = {label: setting.row for panel in panels for label, (setting, *_) in panel.references}
    return sorted(rows, key=lambda label: ((rows[label].method, rows[label].head) not in USUAL, label))


def _arrange_legend(panels: Sequence[Panel], across: float, large: float) -> tuple[list[Entry], int, float]:
    """Break labels so that the legend is as low as can be; return its entries, columns and height in points."""
    found = []
    for share in range(1, MOST_SHARES + 1):
        entries = _list_entries(panels, across / share, large)
        columns, height = _arrange(entries, across, large)
        found.append((height, share, columns, entries))
    height, _, columns, entries = min(found, key=lambda each: each[:2])  # of equal ones that with the fewest breaks
    return entries, columns, height


def _list_entries(panels: Sequence[Panel], across: float, large: float) -> list[Entry]:
    joined = {label for panel in panels for label, points in panel.lines if len(points) > 1}
    entries = []
    for label, look in give_looks(_list_lines(panels)).items():
        style = {"color": look.colour, "marker": look.marker, "markersize": 4.5 * large, "linewidth": 1.1 * large}
        entries.append((label, Line2D([], [], **style, linestyle=look.line if label in joined else "")))
    for place, label in enumerate(_list_references(panels)):
        grey, dash = give_dash(place)
        entries.append((label, Line2D([], [], color=grey, linewidth=1.1 * large, linestyle=dash)))
    if any(panel.front for panel in panels):
        style = {"color": "black", "alpha": 0.6, "linewidth": 0.8 * large, "drawstyle": "steps-post"}
        entries.append(("Pareto front", Line2D([], [], **style)))
    room = across - SAMPLE * large
    return [Entry(handle, wrap_text(label, room, LETTERS * large)) for label, handle in entries]


def _arrange(entries: Sequence[Entry], across: float, large: float) -> tuple[int, float]:
    """Return the number of columns of the legend and its height in points."""
    if not entries:
        return 1, 0.0
    filled: list[Sequence[Entry]] = [entries]
    for rows in range(1, len(entries) + 1):
        filled = list(_fill_columns(entries, math.ceil(len(entries) / rows)))
        widths = [max(measure_text(line, LETTERS * large) for entry in part for line in entry.lines) for part in filled]
        if sum(widths) + len(widths) * (SAMPLE + 9) * large <= across:
            break
    heights = [sum(1.2 * len(entry.lines) + 0.06 for entry in part) for part in filled]
    return len(filled), max(heights) * LETTERS * large


def _fill_columns(entries: Sequence[Entry], columns: int) -> Iterator[Sequence[Entry]]:
    """Yield the entries of each column as matplotlib fills them: the first ones get one more."""
    start = 0
    for column in range(columns):
        count = len(entries) // columns + (column < len(entries) % columns)
        yield entries[start : start + count]
        start += count


def _count_lines(panel: Panel, own: Sequence[str], inside: float, large: float) -> float:
    """Return the points that the lines above a panel take."""
    told = panel.describe()
    titles = wrap_text(name_data(told), inside, LETTERS * large)
    small = wrap_text(", ".join(told[name] for name in own if name in told), inside, SMALL * large)
    return LINE * (len(titles) * LETTERS + len(small) * SMALL) * large
