"""What is on the x axis besides parameters, what has no place there, and the Pareto front."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from vision_peft.results.plots.axes import X_AXES, choose_axis
from vision_peft.results.plots.pareto import find_front
from vision_peft.results.plots.plot import plot_accuracy
from vision_peft.results.settings import group_by_seed


def draw(rows, stem: Path, **options: Any) -> tuple[list[dict[str, str]], str]:
    """Return the lines of the CSV and the texts of the picture."""
    _, numbers = plot_accuracy(rows, stem, kinds=["svg"], **options)
    with numbers.open(encoding="utf-8", newline="") as file:
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", Path(f"{stem}.svg").read_text(encoding="utf-8"))
        return list(csv.DictReader(file)), " ".join(texts)


def test_every_axis_is_the_mean_of_its_field_over_seeds(make_row, tmp_path):
    values = {"step_ms": 40.0, "peak_memory_mb": 1500.0, "flops_forward": 17_000_000_000, "adapter_bytes": 600_000}
    wanted = {
        "trained": 1_189_632,
        "stored": 1_189_632,
        "step_time": 41,
        "memory": 1.5e9,
        "inference": 17,
        "adapter": 6e5,
    }
    (setting,) = group_by_seed([make_row(**values), make_row(**{**values, "step_ms": 42.0, "seed": 1})])
    assert {name: axis.get(setting) for name, axis in X_AXES.items()} == wanted
    assert X_AXES["step_time"].spread(setting) == pytest.approx(2**0.5)
    assert X_AXES["memory"].spread(setting) is None
    (line,), texts = draw(setting.rows, tmp_path / "a", x="step_time")
    assert (line["x"], line["x_mean"], line["x_std"]) == ("step_ms", "41.0000", "1.4142")
    assert "time of a training step (ms)" in texts


def test_runs_without_the_number_and_steps_on_kept_features_are_left_out_and_named(make_row, tmp_path):
    rows = [
        make_row(),
        make_row("lora", {"rank": 8}, step_ms=None, seed=0),
        make_row("vpt", {"tokens": 10}, reused_features=True),
        make_row("linear", {}, reused_features=True),
    ]
    lines, texts = draw(rows, tmp_path / "a", x="step_time")
    assert (
        "2 settings without step_ms left out (steps on kept features are no steps of the model): LoRA-8, VPT-deep-10."
        in texts
    )
    assert {line["method"]: line["x_mean"] for line in lines}["LoRA-8"] == ""
    assert "linear probe" in texts, "a reference is a line without a place on the axis"
    with pytest.raises(ValueError, match="nothing to plot: 1 setting without step_ms left out: LoRA-8"):
        draw([rows[1]], tmp_path / "b", x="step_time")
    assert not (tmp_path / "b.csv").exists()


def test_times_and_memory_of_two_devices_are_two_panels_and_never_averaged(make_row, tmp_path):
    rows = [make_row(seed=0, device="cpu", step_ms=300.0), make_row(seed=1, device="NVIDIA H200", step_ms=10.0)]
    lines, texts = draw(rows, tmp_path / "a", x="step_time")
    assert [line["x_mean"] for line in lines] == ["300.0000", "10.0000"]
    assert "cpu" in texts
    assert "NVIDIA H200" in texts
    lines, _ = draw(rows, tmp_path / "b", x="trained")
    assert [line["n_seeds"] for line in lines] == ["2"]


def test_an_unknown_axis_or_width_names_the_known_ones(make_row, tmp_path):
    with pytest.raises(ValueError, match=r"x must be one of trained, .*, got memmory \(did you mean memory\?\)"):
        draw([make_row()], tmp_path / "a", x="memmory")
    for width in ("colum", "0.5", "nan", "1e9"):
        with pytest.raises(ValueError, match=r"width must be column \(3.25 in\), page \(6.75 in\) or inches"):
            draw([make_row()], tmp_path / "a", width=width)


def test_the_front_holds_what_nothing_beats_at_the_same_cost(make_row, tmp_path):
    points = {"a": (10, 80.0), "b": (20, 79.0), "c": (20, 85.0), "d": (40, 85.0), "e": (80, 86.0)}
    rows = [make_row(name, {}, params_trained=x, top1=y) for name, (x, y) in points.items()]
    front = find_front(group_by_seed(rows), choose_axis("trained"), "top1")
    assert [setting.row.method for setting in front] == ["a", "c", "e"]
    lines, texts = draw(rows, tmp_path / "a", pareto=True)
    assert [line["on_front"] for line in lines] == ["yes", "no", "yes", "no", "yes"]
    assert "Pareto front" in texts
    of_numbers = {"top1": None, "metric": "mae", "lower_is_better": True, "figure_words": {"mae": "MAE"}}
    worse = [make_row(name, {}, params_trained=x, figures={"mae": y}, **of_numbers) for name, (x, y) in points.items()]
    front = find_front(group_by_seed(worse), choose_axis("trained"), "mae")
    assert [setting.row.method for setting in front] == ["a", "b"]


def test_a_free_reference_that_is_better_keeps_a_method_off_the_front(make_row, tmp_path):
    rows = [make_row(top1=89.0), make_row("linear", {}, params_trained=0, top1=90.0)]
    lines, _ = draw(rows, tmp_path / "a", pareto=True)
    assert {line["method"]: line["on_front"] for line in lines} == {"AdaptFormer-64": "no", "linear probe": "yes"}


def test_settings_of_different_data_have_no_front(make_row, tmp_path):
    rows = [make_row(data_digest="1" * 64), make_row("lora", {"rank": 8}, data_digest="2" * 64)]
    lines, texts = draw(rows, tmp_path / "a", pareto=True)
    assert [line["on_front"] for line in lines] == ["", ""]
    assert "No Pareto front where settings were trained or tested on different data." in texts


def test_what_val_chose_for_each_method_is_said_once_and_not_in_labels(make_row, tmp_path):
    tried = {"recipe.lr": [1e-3, 1e-2], "recipe.epochs": [5, 20]}
    rows = [make_row(epochs=5, tried=tried), make_row("lora", {"rank": 8}, epochs=20, tried=tried)]
    rows += [
        make_row(epochs=20, tried=tried, task="far"),
        make_row("lora", {"rank": 8}, epochs=5, tried=tried, task="far"),
    ]
    _, texts = draw(rows, tmp_path / "a")
    assert "epochs=" not in texts
    assert "Chosen on val for each method and task: lr, epochs." in texts
