"""Draw one panel: lines of methods with the spread over seeds, horizontal references, the Pareto front, ticks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from vision_peft.printable import for_plot
from vision_peft.results.figures import describe_metric
from vision_peft.results.plots.axes import SPAN_OF_LOGARITHM, XAxis
from vision_peft.results.plots.looks import FAINT, GREY, LETTERS, SMALL, Look, give_dash, measure_text, wrap_text
from vision_peft.results.plots.panels import Panel
from vision_peft.results.plots.series import Line
from vision_peft.results.plots.spread import spread_points
from vision_peft.results.selection import name_data
from vision_peft.results.settings import Metric, Setting


def draw_panel(
    axes: Axes,
    panel: Panel,
    looks: Mapping[str, Look],
    dashes: Sequence[str],
    axis: XAxis,
    metric: Metric,
    large: float,
) -> None:
    """Draw the settings of a panel; the scale of its x axis is set already.

    Args:
        axes: to draw on.
        panel: what is drawn.
        looks: by the label of a line.
        dashes: labels of references, which have dashes by their place.
        axis: the x axis.
        metric: on the y axis.
        large: how many times larger than on paper lines and type are.
    """
    _scale_y(axes, panel, metric, large)
    for label, (setting,) in panel.references:
        mean, std = setting.mean(metric) or 0.0, setting.std(metric)
        grey, dash = give_dash(dashes.index(label))
        axes.axhline(mean, color=grey, linewidth=1.1 * large, linestyle=dash, zorder=1)
        if std is not None:
            axes.axhspan(mean - std, mean + std, color=grey, alpha=0.13, linewidth=0, zorder=0)
        x = axis.get(setting)
        if not axis.is_count and x is not None:
            axes.plot([x], [mean], color=grey, marker=".", markersize=6 * large, zorder=2)
    if panel.front:
        _draw_front(axes, panel, axis, metric, large)
    spread = _spread_alone(axes, panel.lines, axis, metric)
    for label, points in panel.lines:
        places = [spread[label]] if label in spread else [axis.get(setting) or 0.0 for setting in points]
        _draw_line(axes, places, points, looks[label], axis, metric, large)


def has_points_aside(lines: Sequence[Line], axis: XAxis) -> bool:
    """Whether lines of one point stand beside the number of parameters that they share with another line."""
    if not axis.is_count:
        return False
    alone = Counter(axis.get(points[0]) or 0.0 for _, points in lines if len(points) == 1)
    joined = {axis.get(setting) or 0.0 for _, points in lines if len(points) > 1 for setting in points}
    return any(count > 1 or place in joined for place, count in alone.items())


def scale_x(
    axes: Axes, values: Sequence[float], axis: XAxis, points: float, large: float, bars: Sequence[float] = ()
) -> None:
    """Set the axis over the values of all panels; none if there are no values.

    Args:
        axes: to draw on.
        values: of all panels. Parameters have a logarithmic axis of at least one decade, other numbers one where they
            span more than a factor of three.
        axis: the x axis.
        points: width of the panel on paper.
        large: how many times larger than on paper type is.
        bars: where bars of the values end; on a logarithmic axis those that reach far below the least are cut.
    """
    if not values:
        axes.set_xticks([])
        return
    least, most = min(values), max(values)
    widest = max(measure_text(axis.show(value), SMALL * large) for value in (least, most))
    most_ticks = max(3, int(points / (1.3 * widest + 4)))
    if not axis.is_count and (least <= 0 or most / least <= SPAN_OF_LOGARITHM):
        least, most = min([least, *bars]), max([most, *bars])
        pad = 0.12 * (most - least) or 0.1 * abs(most) or 1.0
        axes.set_xlim(least - pad, most + pad)
        axes.xaxis.set_major_locator(MaxNLocator(min(most_ticks, 6), steps=[1, 2, 2.5, 5, 10]))
    else:
        least, most = max(min([least, *bars]), least / 10), max([most, *bars])
        pad = max(1.6, math.sqrt(10 * least / most)) if axis.is_count else 1.4
        low, high = least / pad, most * pad
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(_choose_ticks(low, high, most_ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: axis.show(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def describe_size(setting: Setting) -> str:
    """Return the sizes of the methods of a setting: "8", "8+10"."""
    return "+".join(str(part) for part in setting.row.sizes if part is not None)


def label_panel(axes: Axes, panel: Panel, about: Sequence[str], points: float, large: float) -> None:
    """Write the dataset, the task and what else tells a panel from the others above it.

    Args:
        axes: to draw on.
        panel: what is drawn.
        about: names of what is told in small letters.
        points: width of the panel on paper.
        large: how many times larger than on paper type is.
    """
    told = panel.describe()
    small = wrap_text(", ".join(told[name] for name in about if name in told), points, SMALL * large)
    titles = wrap_text(name_data(told), points, LETTERS * large)
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom", "ha": "left"}
    height = 3.0 * large
    for lines, size, weight, colour in ((small, SMALL, "normal", GREY), (titles, LETTERS, "bold", "black")):
        for line in reversed(lines):
            kind = {"fontsize": size * large, "fontweight": weight, "color": colour}
            axes.annotate(for_plot(line), (0, 1), xytext=(0, height), **above, **kind)
            height += 1.25 * size * large


def _spread_alone(axes: Axes, lines: Sequence[Line], axis: XAxis, metric: Metric) -> dict[str, float]:
    """Return the places of lines of one point on an axis of parameters, by label: side by side where they share one."""
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    if not axis.is_count or low <= 0:
        return {}
    alone, fixed = {}, []
    for label, points in lines:
        for setting in points:
            if (place := axis.get(setting) or 0.0) > 0:
                across = math.log(place / low) / math.log(high / low)
                point = across, ((setting.mean(metric) or 0.0) - bottom) / (top - bottom)
                if len(points) == 1:
                    alone[label] = point
                else:
                    fixed.append(point)
    return {label: low * (high / low) ** across for label, across in spread_points(alone, fixed).items()}


def _draw_line(
    axes: Axes, places: list[float], points: list[Setting], look: Look, axis: XAxis, metric: Metric, large: float
) -> None:
    means = [setting.mean(metric) or 0.0 for setting in points]
    face = "white" if points[0].row.protocol == "best_test" else look.colour
    kind = {"color": look.colour, "linestyle": look.line, "marker": look.marker, "markerfacecolor": face}
    axes.plot(places, means, **kind, markersize=5 * large, linewidth=1.1 * large, markeredgewidth=0.8 * large)
    for place, mean, setting in zip(places, means, points, strict=True):
        std, aside = setting.std(metric), axis.spread(setting)
        if std is not None or aside is not None:
            bars = {
                "yerr": std,
                "xerr": aside,
                "elinewidth": 0.9 * large,
                "capsize": 2 * large,
                "capthick": 0.9 * large,
            }
            axes.errorbar(place, mean, **bars, color=look.colour, zorder=1.9)
        if len(points) > 1:
            below_right = {"xytext": (3 * large, -3 * large), "textcoords": "offset points", "va": "top", "ha": "left"}
            size = {"fontsize": SMALL * large, "color": look.colour}
            axes.annotate(for_plot(describe_size(setting)), (place, mean), **below_right, **size)


def _draw_front(axes: Axes, panel: Panel, axis: XAxis, metric: Metric, large: float) -> None:
    """Draw the best mean that is there up to each place of the axis, from what costs nothing on the left."""
    low, high = axes.get_xlim()
    steps = [(axis.get(setting) or 0.0, setting.mean(metric) or 0.0) for setting in panel.front]
    steps = [(max(x, low), y) for x, y in steps if x <= high]
    if steps:
        xs, ys = [x for x, _ in steps], [y for _, y in steps]
        style = {"color": "black", "linewidth": 0.8 * large, "alpha": 0.6, "zorder": 1.5, "drawstyle": "steps-post"}
        axes.plot([*xs, high], [*ys, ys[-1]], **style)


def _scale_y(axes: Axes, panel: Panel, metric: Metric, large: float) -> None:
    axes.grid(True, color=FAINT, linewidth=0.5 * large)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_linewidth(0.6 * large)
    axes.tick_params(labelsize=SMALL * large, width=0.6 * large, length=2.5 * large, pad=2 * large)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    spans = [(setting.mean(metric) or 0.0, setting.std(metric) or 0.0) for setting in panel.settings]
    low, high = min(mean - std for mean, std in spans), max(mean + std for mean, std in spans)
    if not describe_metric([panel.row], metric).endswith("%"):
        pad = max(0.1 * (high - low), 0.02 * abs(high)) or 1.0
        axes.set_ylim(low - pad, high + pad)
        return
    pad = max(0.1 * (high - low), 0.5 * (4.0 - high + low))  # a few tenths of a percent must not fill the picture
    axes.set_ylim(max(low - pad, -1), min(high + pad, 101))


def _choose_ticks(low: float, high: float, most: int) -> list[float]:
    """Choose round numbers from `low` to `high`, at most `most` where more than one remains."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits, stride in (((1, 2, 5), 1), ((1, 3), 1), *(((1,), stride) for stride in range(1, 12))):
        ticks = [digit * 10.0**power for power in decades if power % stride == 0 for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    return ticks
