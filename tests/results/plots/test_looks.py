"""Pictures for paper: colours and markers that tell 16 methods apart, type that is legible, the same bytes."""

import itertools
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle
from matplotlib.text import Text

from vision_peft.results.find_rows import find_runs
from vision_peft.results.plots import plot as plots
from vision_peft.results.plots.looks import COLOURS, MARKERS, give_looks, measure_text, read_width, wrap_text
from vision_peft.results.plots.plot import plot_accuracy
from vision_peft.results.row import write_row

NAMES = ("lora", "vpt", "adaptformer", "bitfit", "ssf", "fact", "convpass", "repadapter", "adapter_plus", "lst", "dtl")
NAMES += ("mona", "houlsby", "vera", "ia3", "prefix_tuning")


def to_lab(colour: str) -> np.ndarray:
    """Return CIELAB of an sRGB colour (D65)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = np.cbrt(xyz / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_sixteen_methods_have_colours_and_markers_of_their_own_and_more_have_pairs():
    looks = list(give_looks([str(number) for number in range(16)]).values())
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == 16
    many = give_looks([str(number) for number in range(256)]).values()
    assert len({(look.colour, look.marker) for look in many}) == 256
    assert {look.line for look in looks} == {"-"}
    assert len({(look.colour, look.line) for look in [*many][:48]}) == 48, "lines of one colour are told apart"
    distances = [np.linalg.norm(to_lab(a) - to_lab(b)) for a, b in itertools.combinations(COLOURS, 2)]
    assert min(distances) > 20, "2 is about the smallest difference that is seen side by side"
    assert all(to_lab(colour)[0] < 76 for colour in COLOURS), "dark enough on white"
    paths = [MarkerStyle(marker) for marker in MARKERS]
    outlines = [np.asarray(path.get_path().transformed(path.get_transform()).vertices) for path in paths]
    assert len({outline.tobytes() for outline in outlines}) == 16
    assert all(path.is_filled() for path in paths), "hollow is what was selected on test"


def test_methods_keep_their_colours_on_axes_that_lack_some_of_them(make_row, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, file, kind: figures.append(figure))
    rows = [make_row(name, {"size": 8}, params_trained=1000 + place) for place, name in enumerate(NAMES[:4])]
    rows += [
        make_row("knn", {}, params_trained=0, reused_features=True),
        make_row("full", {}),
        make_row("linear", {}, params_trained=0),
    ]
    rows += [make_row("adapter_plus", {}, params_trained=900, reused_features=True)]
    for x in ("trained", "memory", "step_time"):
        plot_accuracy(rows, tmp_path / x, x=x, kinds=["svg"])
    by_count, by_memory, by_time = (
        {
            text.get_text(): handle.get_color()
            for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
        }
        for legend in (figure.legends[0] for figure in figures)
    )
    assert by_count.keys() == by_memory.keys() == {*by_time, "k-NN", "Adapter+"}
    assert by_time.items() < by_count.items()
    assert by_memory.items() - by_count.items() == {("k-NN", by_memory["k-NN"])}
    assert by_memory["k-NN"] in COLOURS


def test_a_width_is_that_of_the_picture(make_row, tmp_path):
    assert (read_width("column"), read_width("page"), read_width("4.5"), read_width(5)) == (3.25, 6.75, 4.5, 5.0)
    for width, points in (("column", 234.0), ("4.5", 324.0)):
        plot_accuracy([make_row()], tmp_path / "a", width=width, kinds=["svg"])
        assert f'width="{points:g}pt"' in (tmp_path / "a.svg").read_text()


def test_sixteen_methods_at_column_width_keep_every_letter_at_six_points_and_inside(make_row, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, file, kind: figures.append(figure))
    rows = [make_row(name, {"size": 8}, params_trained=1000 * 2**place) for place, name in enumerate(NAMES)]
    rows += [make_row("linear", {}, params_trained=0, top1=80.0), make_row("full", {})]
    plot_accuracy(rows, tmp_path / "a", width="column", pareto=True, kinds=["svg"])
    (figure,) = figures
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(shown) > 25
    assert min(text.get_fontsize() for text in shown) >= 6
    width, height = figure.bbox.size
    boxes = [text.get_window_extent() for text in shown if text.get_text().strip()]
    ticks = [box for box in boxes if box.width]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in ticks)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 19
    for axes in figure.axes:
        assert not legend.get_window_extent().overlaps(axes.get_tightbbox())
        assert axes.get_window_extent().height > 0.5 * axes.get_window_extent().width


@pytest.mark.parametrize(("width", "columns"), [("column", 2), ("page", 4)])
def test_one_long_label_leaves_the_legend_its_columns(make_row, tmp_path, monkeypatch, width, columns):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, file, kind: figures.append(figure))
    rows = [make_row(name, {"size": 8}, params_trained=1000 * 2**place) for place, name in enumerate(NAMES)]
    heads = ("linear", "attentive tokens=all norm=false queries=8 reduce=2")
    rows += [make_row("linear", {}, params_trained=0, top1=80.0, head=head) for head in heads]
    plot_accuracy(rows, tmp_path / "a", width=width, kinds=["svg"])
    figures[0].draw_without_rendering()
    (legend,) = figures[0].legends
    texts = [text.get_window_extent() for text in legend.get_texts()]
    assert len({round(box.x0) for box in texts}) >= columns
    assert max(box.x1 for box in texts) <= figures[0].bbox.size[0]
    assert any("attentive" in text.get_text() for text in legend.get_texts())


def test_text_is_wrapped_by_its_width():
    lines = wrap_text("a sentence of several words that has to go into a narrow column", 80, 6)
    assert len(lines) > 2
    assert all(measure_text(line, 6) <= 80 for line in lines)
    assert "".join(wrap_text("x" * 300, 50, 6)) == "x" * 300
    assert wrap_text("", 80, 6) == []


def test_pictures_are_made_of_the_rows_alone_and_are_the_same_in_another_process(make_row, tmp_path):
    """Whatever else lies in the folders of runs; hash seeds differ between processes."""
    for seed, (name, fields) in itertools.product(
        (0, 1), (("lora", {"rank": 4}), ("vpt", {"tokens": 5}), ("linear", {}))
    ):
        folder = tmp_path / "runs" / f"{name}{seed}"
        write_row(folder / "result.json", make_row(name, fields, seed=seed, top1=90.0 + seed + len(name)))
        (folder / "adapter").mkdir()
        for other in ("config.yaml", "log.txt", "metrics.jsonl", "adapter/adapter.json", "status.json"):
            (folder / other).write_text("{}")
    first = plot_accuracy(find_runs([tmp_path / "runs"]).rows, tmp_path / "a", pareto=True)
    before = [file.read_bytes() for file in first]
    for path in [*(tmp_path / "runs").glob("*/*")]:
        if path.name != "result.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    code = "import sys; from vision_peft.results.find_rows import find_runs as find; "
    code += "from vision_peft.results.plots.plot import plot_accuracy as plot; "
    code += "plot(find([sys.argv[1]]).rows, sys.argv[2], pareto=True)"
    words = [sys.executable, "-c", code, str(tmp_path / "runs"), str(tmp_path / "b")]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONHASHSEED": "7"}, timeout=300)
    assert [(tmp_path / f"b{file.suffix}").read_bytes() for file in first] == before
    assert [file.suffix for file in first] == [".png", ".svg", ".pdf", ".csv"]
    assert not re.search(rb"CreationDate|ModDate", before[2])
