"""Plot accuracy against what methods cost: one line per method, linear probe and full fine-tuning as references."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from vision_peft.printable import capitalise
from vision_peft.results.labels import list_searched
from vision_peft.results.plots.axes import choose_axis
from vision_peft.results.plots.draw import has_points_aside
from vision_peft.results.plots.layout import compose
from vision_peft.results.plots.looks import read_width
from vision_peft.results.plots.numbers import write_csv
from vision_peft.results.plots.panels import Panel, build_panels, split_by_device
from vision_peft.results.row import Row
from vision_peft.results.selection import select_measured
from vision_peft.results.settings import Metric
from vision_peft.safe_files import replacing

NAME = "accuracy"  # of the files, in a folder that is given
KINDS = ("png", "svg", "pdf")
DOTS = 300  # an inch of a PNG
MOST_DOTS = 60_000  # of its height
_METADATA = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # the same rows, the same bytes


def plot_accuracy(
    rows: Sequence[Row],
    stem: str | Path,
    metric: Metric = "top1",
    x: str = "trained",
    without_row: int = 0,
    *,
    width: str | float = "page",
    pareto: bool = False,
    kinds: Sequence[str] = KINDS,
    remarks: Sequence[str] = (),
) -> list[Path]:
    """Draw `<stem>.png`, `.svg` and `.pdf`, write the numbers to `<stem>.csv`, return the paths.

    One panel per dataset, task, backbone, size of the input and protocol. Points are means, bars standard deviations
    (n - 1) over seeds; a single seed has no bar. Runs without the metric or the number of the x axis, and those that
    have not finished, are counted below the figure; rows whose epoch was selected on test are hollow and starred. Rows
    alone decide what is drawn: the same rows give the same bytes.

    Args:
        rows: of runs.
        stem: of the files; with a slash at the end the folder of `accuracy.png` and so on.
        metric: on the y axis.
        x: one of `X_AXES`: parameters that train or that the adapter stores, time of a step, memory, FLOPs, bytes.
        without_row: runs of which nothing is known but that they have not finished.
        width: of the picture on paper: "column" (3.25 inches), "page" (6.75) or inches; type has at least 6 points.
        pareto: whether the front of the settings that nothing beats at the same cost is drawn.
        kinds: of pictures, some of `KINDS`.
        remarks: sentences to write below the picture too.

    Raises:
        ValueError: no row has the metric, no setting the number of the x axis; an unknown metric, axis or width; a
            stem that is no name of a file.
    """
    stem, axis, inches = _choose_stem(stem), choose_axis(x), read_width(width)
    selection = select_measured(rows, metric, "plot", without_row)
    selection = split_by_device(selection) if axis.of_machine else selection
    panels, notes = build_panels(selection, axis, metric, pareto)
    sentences = _describe_runs(panels, pareto)
    if any(has_points_aside(panel.lines, axis) for panel in panels):
        sentences.insert(1, "Points side by side have the number of parameters in their middle.")
    sentences += [f"{capitalise(note).rstrip('.')}." for note in (*remarks, *selection.notes, *notes)]

    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in (*kinds, "csv")]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the same picture whatever the reader's matplotlibrc says
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "vision_peft", "pdf.fonttype": 42})
        figure = compose(panels, sentences, axis, metric, inches)
        for kind, file in zip(kinds, files, strict=False):
            _save(figure, file, kind)
    write_csv(files[-1], selection.settings, panels, axis, metric)
    return files


def _choose_stem(given: str | Path) -> Path:
    """Return the path of the files without an extension."""
    stem = Path(given)
    if str(given).endswith(("/", os.sep)):
        return stem / NAME
    if stem.name in ("", ".."):
        raise ValueError(
            f"out must be the path of the files without extension, such as {NAME}, got {given or 'nothing'}"
        )
    if stem.is_dir():
        return stem / NAME
    return stem.with_suffix("") if stem.suffix.removeprefix(".").lower() in (*KINDS, "csv") else stem


def _save(figure: Figure, file: Path, kind: str) -> None:
    dots = min(DOTS, int(MOST_DOTS / figure.get_figheight()))
    with replacing(file) as stream:
        figure.savefig(stream, format=kind, dpi=dots, metadata=_METADATA[kind])


def _describe_runs(panels: Sequence[Panel], pareto: bool) -> list[str]:
    settings = [setting for panel in panels for setting in panel.settings]
    counts = sorted({len(setting.rows) for setting in settings})
    if counts == [1]:
        notes = ["One seed each." if len(settings) > 1 else "One seed."]
    else:
        several = [count for count in counts if count > 1]
        span = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
        notes = [f"Mean and standard deviation over {span} seeds" + ("; no bar: one seed." if counts[0] == 1 else ".")]
    if any(panel.row.protocol == "best_test" for panel in panels):
        notes.append("* and hollow: epoch selected on test, not comparable with the others.")
    if searched := dict.fromkeys(name for setting in settings for name in list_searched(setting.row)):
        notes.append(f"Chosen on val for each method and task: {textwrap.shorten(', '.join(searched), 200)}.")
    if pareto and any(panel.front for panel in panels):
        notes.append("Pareto front: of the means.")
    return notes
