"""What is drawn in a panel: points side by side, references that are told apart, bars that stay in the frame."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vision_peft.results.plots.axes import choose_axis
from vision_peft.results.plots.draw import scale_x
from vision_peft.results.plots.layout import compose
from vision_peft.results.plots.looks import GREYS, SMALL, give_dash, measure_text
from vision_peft.results.plots.panels import build_panels
from vision_peft.results.row import Row
from vision_peft.results.selection import select_measured

Make = Callable[..., Row]


def draw(rows: Sequence[Row], x: str = "trained") -> Axes:
    axis = choose_axis(x)
    panels, _ = build_panels(select_measured(rows, "top1", "plot"), axis, "top1", False)
    return compose(panels, [], axis, "top1", 6.75).axes[0]


def list_points(axes: Axes) -> list[float]:
    """List the places of the points, as shares of a logarithmic axis from the first."""
    lines: list[Any] = [*axes.lines]
    places = [line.get_xdata()[0] for line in lines if line.get_marker() not in ("None", "", None)]
    shares = axes.transAxes.inverted().transform(axes.transData.transform([(place, 50.0) for place in places]))
    return sorted(shares[:, 0])


@pytest.mark.parametrize(("number", "span"), [(3, 0.018), (10, 0.081), (25, 0.12)])
def test_points_of_one_number_of_parameters_keep_near_it(number: int, span: float, make_row: Make) -> None:
    rows = [make_row(setting=str(n), settings={"recipe.mixup": n / 100}, top1=50.0 + n) for n in range(number)]
    places = list_points(draw(rows))
    assert len(places) == number
    assert places[-1] - places[0] == pytest.approx(span)
    assert places[0] + places[-1] == pytest.approx(1.0)
    assert min(b - a for a, b in itertools.pairwise(places)) == pytest.approx(span / (number - 1))


@pytest.mark.parametrize("counts", [(9, 5_000_000), (300, 3_000_000), (90_000, 120_000)])
def test_ticks_leave_room_for_their_widest_label(counts: tuple[int, int]) -> None:
    axis, axes, points = choose_axis("trained"), Figure().add_subplot(), 120.0
    scale_x(axes, counts, axis, points, 1.0)
    labels = [axis.show(tick) for tick in axes.get_xticks()]
    assert len(labels) > 1
    assert sum(measure_text(label, SMALL) + 2 for label in labels) < points


def test_sixteen_references_are_told_apart_by_dashes_and_greys(make_row: Make) -> None:
    rows = [make_row("linear", {}, params_trained=0, lr=0.5**n, top1=30.0 + 3 * n, setting=str(n)) for n in range(16)]
    axes = draw(rows)
    figure: Any = axes.figure
    drawn: list[Any] = [*axes.lines]
    for lines in (drawn, figure.legends[0].get_lines()):
        assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == len(lines) == 16
        assert {line.get_color() for line in lines} == {*GREYS[:2]}
    assert len({give_dash(place) for place in range(24)}) == 24


@pytest.mark.parametrize(
    ("memory", "low"),
    [
        ({"lora": (900.0, 1100.0), "vpt": (700.0, 1800.0)}, 1250 - 778),  # linear
        ({"lora": (90.0, 110.0), "vpt": (700.0, 1800.0)}, 100 - 15),  # logarithmic
        ({"lora": (1.0, 199.0), "vpt": (700.0, 1800.0)}, 10),  # a bar through 0
    ],
)
def test_bars_across_stay_in_the_frame(memory: dict[str, tuple[float, ...]], low: float, make_row: Make) -> None:
    rows = [
        make_row(name, {"rank": 8}, seed=seed, peak_memory_mb=peak, top1=80.0 + seed)
        for name, peaks in memory.items()
        for seed, peak in enumerate(peaks)
    ]
    left, right = draw(rows, "memory").get_xlim()
    assert left < low * 1e6
    assert right > (1250 + 777) * 1e6
    assert left > 0
