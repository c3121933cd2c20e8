import csv
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from vision_peft.results.labels import disambiguate
from vision_peft.results.plots.axes import choose_axis
from vision_peft.results.plots.plot import KINDS, plot_accuracy
from vision_peft.results.plots.series import build_references, build_series
from vision_peft.results.settings import group_by_seed

TRAINED = choose_axis("trained")


def draw(rows, stem: Path, metric: str = "top1", **options: Any) -> list[Path]:
    """Draw the SVG only, which is enough to read what is in a picture."""
    return plot_accuracy(rows, stem, metric, **{"kinds": ["svg"], **options})


def records(stem: Path) -> dict[str, dict[str, str]]:
    with Path(f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        return {line["method"]: line for line in csv.DictReader(file)}


def texts(stem: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg(stem))


def svg(stem: Path) -> str:
    return Path(f"{stem}.svg").read_text(encoding="utf-8")


@pytest.fixture
def rows(make_row):
    """Two sizes of AdaptFormer with three and one seeds, LoRA, both references."""
    return [
        *(make_row(seed=seed, top1=top1, mean_per_class=top1 - 1) for seed, top1 in ((0, 95.0), (1, 96.0), (2, 98.0))),
        make_row(fields={"bottleneck": 8, "scale": 0.1}, top1=94.0, params_trained=156_768, params_stored=156_768),
        make_row("lora", {"rank": 8, "alpha": 8}, top1=96.5, params_trained=294_912, params_stored=294_912),
        make_row("linear", {}, top1=90.0, params_trained=0, params_stored=0),
        make_row("full", {}, top1=97.0, params_trained=85_798_656, params_stored=85_798_656),
    ]


def test_the_csv_holds_mean_and_sample_deviation_of_every_setting(rows, tmp_path):
    assert draw(rows, tmp_path / "a") == [tmp_path / "a.svg", tmp_path / "a.csv"]
    table = records(tmp_path / "a")
    assert list(table) == ["AdaptFormer-64", "AdaptFormer-8", "LoRA-8", "linear probe", "full fine-tuning"]
    three = table["AdaptFormer-64"]
    mean = (95 + 96 + 98) / 3
    std = (((95 - mean) ** 2 + (96 - mean) ** 2 + (98 - mean) ** 2) / 2) ** 0.5
    assert float(three["mean"]) == pytest.approx(mean, abs=5e-5)
    assert float(three["std"]) == pytest.approx(std, abs=5e-5)
    assert (three["n_seeds"], three["metric"], three["dataset"], three["task"]) == ("3", "top1", "digits", "")
    assert (three["params_trained"], three["params_stored"], three["params_head"]) == ("1189632", "1189632", "7690")
    assert "adaptformer.bottleneck=64; adaptformer.scale=0.1" in three["settings"]
    assert "lr=0.001" in three["settings"]
    assert (table["linear probe"]["params_trained"], table["linear probe"]["mean"]) == ("0", "90.0000")


def test_a_single_seed_has_an_empty_deviation(rows, tmp_path):
    draw(rows, tmp_path / "a")
    assert (records(tmp_path / "a")["LoRA-8"]["n_seeds"], records(tmp_path / "a")["LoRA-8"]["std"]) == ("1", "")


def test_the_metric_is_the_one_asked_for(rows, tmp_path):
    draw(rows, tmp_path / "a", metric="mean_per_class")
    assert records(tmp_path / "a")["AdaptFormer-64"]["mean"] == f"{(94 + 95 + 97) / 3:.4f}"
    assert "mean per-class accuracy (%)" in texts(tmp_path / "a")


def test_the_svg_names_methods_references_axes_task_and_seeds_as_text(rows, tmp_path):
    draw(rows, tmp_path / "a")
    found = texts(tmp_path / "a")
    for wanted in (
        *("AdaptFormer", "8", "64", "LoRA-8", "linear probe", "full fine-tuning", "digits"),
        *(
            "vit_base_patch16_224.augreg_in21k, 224 px, val_select",
            "trained parameters, head excluded",
            "top-1 accuracy (%)",
        ),
        "Mean and standard deviation over 3 seeds; no bar: one seed.",
    ):
        assert wanted in found, wanted


def test_the_png_has_300_dots_per_inch_the_width_asked_for_and_is_not_empty(rows, tmp_path):
    draw(rows, tmp_path / "a", kinds=["png"], width="column")
    with Image.open(tmp_path / "a.png") as image:
        assert round(image.info["dpi"][0]) == 300
        assert image.width == 975
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_the_same_rows_give_the_same_files_whatever_the_users_matplotlib_settings(rows, tmp_path):
    draw(rows, tmp_path / "a", kinds=KINDS)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        draw(rows, tmp_path / "b", kinds=KINDS)
        assert matplotlib.rcParams["font.size"] == 30
    for kind in (*KINDS, "csv"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes(), kind


def test_stored_parameters_may_be_the_axis(make_row, tmp_path):
    rows = [make_row("prefix_tuning", {"tokens": 10}, params_trained=9_857_024, params_stored=184_320)]
    draw(rows, tmp_path / "a", x="stored")
    found = texts(tmp_path / "a")
    assert "stored parameters, head excluded" in found
    assert "200 k" in found
    assert "10 M" not in found


@pytest.mark.parametrize("name", ["linear", "full"])
def test_a_reference_alone_is_a_picture_without_a_parameter_axis(make_row, tmp_path, name):
    draw([make_row(name, {}, params_trained=0)], tmp_path / "a")
    assert not any("parameters" in text for text in texts(tmp_path / "a"))
    assert "One seed." in texts(tmp_path / "a")


def test_a_single_run_is_a_picture(make_row, tmp_path):
    draw([make_row()], tmp_path / "a")
    assert "AdaptFormer-64" in texts(tmp_path / "a")


def test_tasks_backbones_and_protocols_get_a_panel_each(make_row, tmp_path):
    rows = [
        make_row(dataset="vtab1k", task="clothing"),
        make_row(dataset="vtab1k", task="rsscn7"),
        make_row(dataset="vtab1k", task="clothing", backbone="vit_small"),
        make_row(dataset="vtab1k", task="clothing", protocol="best_test"),
    ]
    draw(rows, tmp_path / "a")
    found = texts(tmp_path / "a")
    assert found.count("vtab1k clothing") == 3
    assert found.count("vtab1k rsscn7") == 1
    assert "224 px" in found, "what all panels share stands above them"
    assert "vit_small, val_select" in found
    assert found.count("AdaptFormer-64") == 1, "one legend for all panels"


def test_an_epoch_selected_on_test_is_hollow_starred_and_explained(make_row, tmp_path):
    draw([make_row()], tmp_path / "honest")
    draw([make_row(protocol="best_test")], tmp_path / "best")
    assert "vit_base_patch16_224.augreg_in21k, 224 px, best_test*" in texts(tmp_path / "best")
    note = "One seed. * and hollow: epoch selected on test, not comparable with the others."
    assert note in texts(tmp_path / "best")
    hollow = "fill: #ffffff; stroke: #0072b2"
    assert hollow in (tmp_path / "best.svg").read_text()
    assert hollow not in (tmp_path / "honest.svg").read_text()


def test_rows_without_test_accuracy_are_left_out_and_counted(make_row, tmp_path):
    draw([make_row(), make_row(top1=None, lr=1e-2), make_row(top1=None, lr=1e-4)], tmp_path / "a")
    assert "One seed. 2 runs without test accuracy left out." in texts(tmp_path / "a")
    assert records(tmp_path / "a")["AdaptFormer-64"]["n_seeds"] == "1"


def test_nothing_to_plot_is_an_error(make_row, tmp_path):
    with pytest.raises(ValueError, match="none of 1 rows has top1"):
        draw([make_row(top1=None)], tmp_path / "a")
    with pytest.raises(ValueError, match="none of 0 rows"):
        draw([], tmp_path / "a")
    with pytest.raises(ValueError, match="metric must be one of top1, mean_per_class"):
        draw([make_row()], tmp_path / "a", metric="top2")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_names_with_dollars_and_markup_are_drawn_as_they_are(make_row, tmp_path):
    draw([make_row(dataset="a$x_1$ & <b>")], tmp_path / "a")
    assert "a$x_1$ &amp; &lt;b&gt;" in texts(tmp_path / "a")


def test_the_ending_of_a_picture_in_the_stem_is_not_doubled_and_dots_stay(make_row, tmp_path):
    assert draw([make_row()], tmp_path / "new" / "a.svg")[0] == tmp_path / "new" / "a.svg"
    assert draw([make_row()], tmp_path / "v1.2")[0] == tmp_path / "v1.2.svg"


def test_a_line_joins_sizes_of_one_method_and_nothing_else(make_row):
    def row(rank, **changed):
        fields = {"rank": rank, "alpha": rank, "targets": changed.pop("targets", ["q", "v"])}
        return make_row("lora", fields, params_trained=36_864 * rank, **changed)

    settings = group_by_seed([row(8), row(2, lr=1e-4), row(4, targets=["qkv"])])
    lines = build_series(settings, TRAINED, settings)
    found = {label: [point.row.sizes[0] for point in points] for label, points in lines}
    assert found == {"LoRA (targets=[q, v])": [2, 8], "LoRA (targets=[qkv])": [4]}


def test_a_line_goes_from_size_to_size_where_a_larger_one_costs_less(make_row):
    def row(rank, step_ms):
        return make_row("lora", {"rank": rank, "alpha": rank}, params_trained=36_864 * rank, step_ms=step_ms)

    settings = group_by_seed([row(8, 100.0), row(2, 120.0), row(32, 110.0)])
    ((_, points),) = build_series(settings, choose_axis("step_time"), settings)
    assert [point.row.sizes[0] for point in points] == [2, 8, 32]


def test_a_size_with_two_learning_rates_splits_the_line(make_row):
    def row(bottleneck, lr):
        return make_row(fields={"bottleneck": bottleneck}, lr=lr, params_trained=1000 * bottleneck)

    settings = group_by_seed([row(8, 0.001), row(64, 0.001), row(64, 0.01)])
    lines = build_series(settings, TRAINED, settings)
    found = {label: [point.row.sizes[0] for point in points] for label, points in lines}
    assert found == {"AdaptFormer (lr=0.001)": [8, 64], "AdaptFormer (lr=0.01)": [64]}


def test_what_has_no_place_on_a_logarithmic_axis_is_a_reference(make_row):
    nothing = {"fields": {}, "params_trained": 0}
    settings = group_by_seed([make_row("linear", **nothing), make_row("full", {}), make_row("noop", **nothing)])
    labels = [label for label, _ in build_references(settings, TRAINED, settings)]
    assert labels == ["linear probe", "full fine-tuning", "noop"]
    assert build_series(settings, TRAINED, settings) == []


def test_equal_names_on_different_tasks_need_no_telling_apart(make_row):
    settings = group_by_seed([make_row(lr=0.1), make_row(lr=0.2, dataset="other"), make_row(lr=0.3)])
    labels = disambiguate([setting.row.label for setting in settings], [[setting] for setting in settings])
    assert labels == ["AdaptFormer-64 (lr=0.1)", "AdaptFormer-64", "AdaptFormer-64 (lr=0.3)"]


def test_images_of_two_sizes_are_two_panels_that_say_so(make_row, tmp_path):
    rows = [
        make_row(img_size=56),
        make_row("lora", {"rank": 8}, img_size=56),
        make_row("vpt", {"tokens": 8}, img_size=28),
    ]
    draw(rows, tmp_path / "a")
    found = texts(tmp_path / "a")
    panels = [text for text in found if text.startswith("vit_base")]
    assert panels == ["vit_base_patch16_224.augreg_in21k, val_select"], "once for both"
    assert [text for text in found if text.endswith(" px")] == ["28 px", "56 px"]
    draw([make_row(num_frames=8), make_row(num_frames=16, img_size=[56, 112])], tmp_path / "b")
    assert "56 x 112 px, 16 frames" in texts(tmp_path / "b")


def test_settings_of_one_method_are_marked_side_by_side(make_row, tmp_path):
    rows = [
        make_row(setting=str(value), settings={"recipe.mixup": value}, top1=90 + value) for value in (0.2, 0.4, 0.8)
    ]
    draw(rows, tmp_path / "a")
    found = texts(tmp_path / "a")
    assert {f"AdaptFormer-64 (mixup={value})" for value in (0.2, 0.4, 0.8)} <= set(found)
    assert "One seed each. Points side by side have the number of parameters in their middle." in found
    markers = re.findall(
        r'<use xlink:href="#m\w+" x="([\d.]+)" y="[\d.]+" style="fill: #(?:0072b2|d55e00|009e73)', svg(tmp_path / "a")
    )
    places = sorted({float(place) for place in markers[:3]})
    assert len(places) == 3
    assert places[2] - places[1] == pytest.approx(places[1] - places[0])


def test_seeds_that_have_not_finished_are_counted_below_the_figure_and_in_the_csv(make_row, tmp_path):
    diverged = {"top1": None, "status": "diverged", "updates": 40}
    rows = [make_row(seed=0), make_row(seed=1, **diverged), make_row("lora", {"rank": 8}, **diverged)]
    draw(rows, tmp_path / "a", without_row=2)
    note = " ".join(text for text in texts(tmp_path / "a") if "diverged" in text or "row" in text)
    assert "AdaptFormer-64: 1 of 2 seeds diverged at update 40. LoRA-8: 1 of 1 seed diverged at update 40." in note
    assert "2 runs without a row left out, unfinished." in note
    table = records(tmp_path / "a")
    assert (table["AdaptFormer-64"]["n_seeds"], table["AdaptFormer-64"]["mean"]) == ("1", "96.4000")
    assert table["AdaptFormer-64"]["not_finished"] == "1 of 2 seeds diverged at update 40"
    assert (table["LoRA-8"]["n_seeds"], table["LoRA-8"]["mean"]) == ("0", "")
    assert "LoRA-8" not in texts(tmp_path / "a")
