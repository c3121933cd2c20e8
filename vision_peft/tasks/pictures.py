"""Pictures of how good the answers for a split are: curves, predicted against true, counts of grades."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from vision_peft.printable import for_plot
from vision_peft.safe_files import replacing

MOST_CURVES = 12
MOST_DOTS = 5000
_INK, _PALE = "#1f4e79", "#9a9a9a"


@dataclass(frozen=True)
class Curve:
    """Precision against recall of one class, both from 0 to 1, at some of its thresholds."""

    name: str
    recall: list[float]
    precision: list[float]

    @classmethod
    def of(cls, name: str, precision: Tensor, recall: Tensor, most: int) -> Self:
        """Take at most so many points, evenly spread, the first and the last among them."""
        places = torch.linspace(0, len(recall) - 1, min(most, len(recall))).round().long()
        return cls(name, recall[places].tolist(), precision[places].tolist())


def draw_curves(path: Path, curves: Sequence[Curve], scores: Mapping[str, float | None]) -> None:
    """Draw the curves of the classes with the lowest scores (average precision in percent), as PNG."""
    worst = sorted(curves, key=lambda curve: scores[curve.name] or 0.0)[:MOST_CURVES]
    with _figure(path, 5.4, 4.0) as axes:
        for curve in worst:
            axes.plot(
                curve.recall,
                curve.precision,
                linewidth=1.2,
                label=for_plot(f"{curve.name[:30]} {scores[curve.name] or 0.0:.1f}"),
                drawstyle="steps-pre",
            )
        few = f", the {MOST_CURVES} of {len(curves)} classes with the lowest" if len(curves) > MOST_CURVES else ""
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.set_title(f"average precision in percent{few}", fontsize=9)
        if worst:
            axes.legend(fontsize=7, frameon=False, loc="lower left")


def draw_scatter(path: Path, names: Sequence[str], unit: str, answers: Tensor, truth: Tensor) -> None:
    """Draw what was answered against what is true, both N D, a panel for each of at most six targets, as PNG."""
    step = -(-len(truth) // MOST_DOTS) or 1
    shown = list(names)[:6]
    with _figure(path, 4.0 * len(shown), 4.0, len(shown)) as panels:
        for place, (axes, name) in enumerate(zip(panels if len(shown) > 1 else [panels], shown, strict=True)):
            x, y = truth[::step, place].tolist(), answers[::step, place].tolist()
            axes.scatter(x, y, s=8, alpha=0.5, color=_INK, linewidths=0)
            ends = [min(x + y), max(x + y)]
            axes.plot(ends, ends, color=_PALE, linewidth=1)
            measure = for_plot(f" ({unit})" if unit else "")
            axes.set(xlabel=f"true{measure}", ylabel=f"predicted{measure}")
            axes.set_title(for_plot(name[:40]), fontsize=9)


def draw_counts(path: Path, names: Sequence[str], counts: Tensor) -> None:
    """Draw counts K K, [truth][prediction], as shares of each true grade with the counts written in, as PNG."""
    size, shares = len(names), counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    with _figure(path, max(4.0, 0.5 * min(size, 20) + 2), max(3.4, 0.45 * min(size, 20) + 1.6)) as axes:
        axes.imshow(shares.tolist(), cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        if size <= 20:
            labels = [for_plot(name[:16]) for name in names]
            axes.set_xticks(range(size), labels, fontsize=8, rotation=45 if max(map(len, labels)) > 3 else 0)
            axes.set_yticks(range(size), labels, fontsize=8)
            for row, column in [(row, column) for row in range(size) for column in range(size)]:
                count, dark = int(counts[row, column]), float(shares[row, column]) > 0.5
                axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")


@contextlib.contextmanager
def _figure(path: Path, width: float, height: float, panels: int = 1) -> Iterator[Any]:
    """Give the axes of a picture, several where there are several panels, that is then written."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the same picture whatever the reader's matplotlibrc says
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(1, panels)
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=120)
