"""The HTML report: what it holds, what it never mixes, how large it may get. What it does: test_html_browser.py."""

import random
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from support.report_page import read_data

from vision_peft.results import html_page
from vision_peft.results.html_page import MOST_BYTES, make_page
from vision_peft.results.report import make_report
from vision_peft.results.row import Row
from vision_peft.results.row_bounds import MAX_FIGURES

Make = Callable[..., Row]


def cells(kind: dict[str, Any], key: str) -> list[Any]:
    return [setting["cells"][kind["keys"].index(key)] for setting in kind["settings"]]


def test_a_setting_is_the_mean_of_its_seeds_and_a_panel_has_its_lines(make_row: Make) -> None:
    rows = [make_row(seed=seed, top1=top1) for seed, top1 in enumerate((80.0, 84.0))]
    rows += [make_row("adaptformer", {"bottleneck": 8, "scale": 0.1}, top1=79.0, params_trained=150_000)]
    rows += [make_row("linear", {}, top1=70.0, params_trained=0, params_stored=0)]
    (kind,) = read_data(make_page(rows))["kinds"]
    assert cells(kind, "method") == [
        ["linear probe", "linear probe"],
        *([f"AdaptFormer-{size}"] * 2 for size in (8, 64)),
    ]
    assert cells(kind, "figure top1") == [[70.0, "70.00", None], [79.0, "79.00", None], [82.0, "82.00 ± 2.83", 2.82843]]
    (panel,) = kind["panels"]
    lines = [(line["label"], line["points"], line.get("reference")) for line in panel["lines"]]
    assert lines == [("AdaptFormer", [1, 2], None), ("linear probe", [0], "linear")]


def test_protocol_budget_and_setting_are_never_averaged(make_row: Make) -> None:
    tried = {"recipe.lr": [1e-3, 1e-2], "recipe.epochs": [5, 20]}
    rows = [
        make_row(top1=90.0),
        make_row(top1=80.0, seed=1, protocol="best_test"),
        make_row(top1=70.0, seed=2, epochs=20, tried=tried),
        make_row(top1=60.0, seed=3, setting="other"),
        make_row(top1=50.0, seed=4, setting=None, settings=None),
    ]
    (kind,) = read_data(make_page(rows))["kinds"]
    found = {own[0] for own in cells(kind, "figure top1") if own[2] is None}
    assert found == {90.0, 80.0, 70.0, 60.0, 50.0}
    assert {panel["about"][-1] for panel in kind["panels"]} == {"val_select", "best_test"}
    told = [(each["protocol"], each["epochs"], each["tried"], each["early"]) for each in kind["settings"]]
    assert ("val_select", "20 epochs", "tried lr: 2, epochs: 2", False) in told
    assert [early for *_, early in told].count(True) == 1
    assert "80.00*" in [own[1] for own in cells(kind, "figure top1")]


def test_means_of_groups_and_of_the_whole_are_those_of_the_markdown(make_row: Make) -> None:
    groups = {"natural": ["a", "b"], "structured": ["c"]}
    rows = [make_row(task=task, top1=top1) for task, top1 in (("a", 50.0), ("b", 70.0), ("c", 90.0))]
    (kind,) = read_data(make_page(rows, {"digits": groups}))["kinds"]
    columns = {
        name: cell[1] for (name, _), cell in zip(kind["report"]["columns"], kind["report"]["cells"][0], strict=True)
    }
    assert (columns["natural (2)"], columns["mean of 3 tasks"], columns["mean of 2 groups"]) == (
        "60.00",
        "70.00",
        "75.00",
    )
    assert kind["notes"] == make_report(rows, "top1", {"digits": groups}).notes


def test_lines_of_the_report_are_sorted_by_numbers_whatever_their_units(make_row: Make) -> None:
    sizes = {8: (37.0, 1_200), 16: (725.0, 900), 32: (11_520.0, 3_000_000)}
    rows = [
        make_row(
            fields={"bottleneck": size}, train_seconds=seconds, params_trained=count, top1=None if size < 16 else 50.0
        )
        for size, (seconds, count) in sizes.items()
    ]
    rows += [make_row(fields={"bottleneck": 8}, task="b", train_seconds=37.0, params_trained=1_200, top1=61.0)]
    report = read_data(make_page(rows))["kinds"][0]["report"]
    by_name = {name: [line[place] for line in report["cells"]] for place, (name, _) in enumerate(report["columns"])}
    assert by_name["method"][0] == ["AdaptFormer-16"] * 2
    assert by_name["train time"] == [[725.0, "12 min 5 s"], [37.0, "37 s"], [11_520.0, "3 h 12 min"]]
    assert by_name["trained"] == [[900.0, "900"], [1200.0, "1.20 k"], [3e6, "3.00 M"]]
    assert by_name["b"] == [[None, "-"], [61.0, "61.00"], [None, "-"]]


def test_the_input_is_shown_where_only_the_frames_differ(make_row: Make) -> None:
    rows = [make_row(num_frames=frames) for frames in (8, 16)]
    (kind,) = read_data(make_page(rows))["kinds"]
    assert kind["shared"] == "vit_base_patch16_224.augreg_in21k, 224 px"
    assert kind["keys"].index("size") in kind["tables"]["results"]
    assert sorted(cell[1] for cell in cells(kind, "size")) == ["224 px, 16 frames", "224 px, 8 frames"]
    (same,) = read_data(make_page([make_row(num_frames=8)]))["kinds"]
    assert same["shared"].endswith("224 px, 8 frames")
    assert same["keys"].index("size") not in same["tables"]["results"]


def test_searches_of_seeds_that_tried_different_numbers_are_a_span(make_row: Make) -> None:
    searches = [
        {"recipe.lr": [1e-3], "recipe.epochs": [5, 9]},
        {"recipe.lr": [1e-3] * 9, "recipe.epochs": [5, 9]},
        None,
    ]
    rows = [make_row(seed=seed, tried=tried) for seed, tried in enumerate(searches)]
    (kind,) = read_data(make_page(rows))["kinds"]
    assert [each["tried"] for each in kind["settings"]] == ["tried lr: 1 to 9, epochs: 2"]


def test_rows_of_other_kinds_of_task_have_tables_with_their_words_and_units(make_row: Make) -> None:
    nothing = {"top1": None, "top5": None, "mean_per_class": None}
    mae = {"task_kind": "regression", "metric": "mae", "lower_is_better": True, "figures": {"mae": 3.25}, **nothing}
    rows = [
        make_row(),
        make_row(**mae, figure_words={"mae": "MAE, mm"}),
        make_row(**mae, figure_words={"mae": "MAE, years"}, task="age"),
        make_row(
            task_kind="segmentation", metric="miou", figures={"miou": 61.0}, figure_words={"miou": "mIoU, %"}, **nothing
        ),
    ]
    kinds = read_data(make_page(rows))["kinds"]
    titles = ["top-1 accuracy on test, %", "MAE on test, mm", "MAE on test, years", "mIoU on test, %"]
    assert [kind["title"] for kind in kinds] == titles
    assert [kind["lower"] for kind in kinds] == [False, True, True, False]
    assert [len(kind["settings"]) for kind in kinds] == [1, 1, 1, 1]
    assert cells(kinds[1], "figure mae") == [[3.25, "3.25", None]]


def test_what_has_not_finished_and_what_is_missing_is_said(make_row: Make) -> None:
    bare = {"step_ms": None, "images_per_s": None, "peak_memory_mb": None, "flops_forward": None, "val_top1": None}
    rows = [make_row(**bare), make_row(seed=1, status="diverged", updates=40, top1=None), make_row(seed=5, top1=None)]
    data = read_data(make_page(rows, without_row=2))
    (kind,) = data["kinds"]
    assert cells(kind, "step") == [None]
    assert kind["keys"].index("step") not in kind["tables"]["costs"], "no column where nothing was measured"
    assert cells(kind, "seeds") == [[1, "1 of 2"]]
    assert kind["settings"][0]["lost"] == "1 of 2 seeds diverged at update 40"
    assert "1 run without test accuracy left out" in kind["notes"]
    assert data["notes"] == ["2 runs without a row left out, unfinished"]
    with pytest.raises(
        ValueError, match=r"nothing to report: no table of top-1 .*: none of 1 rows has top1; .* stopped"
    ):
        make_page([make_row(status="stopped", top1=None)])
    words = {"rmse": "RMSE, m"}
    depth = make_row(task_kind="depth", metric="rmse", figure_words=words, top1=None, status="stopped", updates=7)
    found = read_data(make_page([make_row(), depth]))
    assert len(found["kinds"]) == 1
    why = "none of 1 rows has rmse; AdaptFormer-64: 1 of 1 seed stopped at update 7"
    assert found["notes"] == [f"no table of RMSE on test, m: {why}"]


def test_published_figures_are_those_of_the_experiments_that_ran(make_row: Make) -> None:
    command = "vision-peft train experiment={} seed=0"
    rows = [make_row(command=command.format("known")), make_row(seed=1, command=command.format("../../etc/passwd"))]
    asked = []

    def read(name: str) -> dict[str, str] | None:
        asked.append(name)
        return {"title": "A paper.", "Published": "77.6 %"} if name == "known" else None

    assert read_data(make_page(rows, published=read))["published"] == [
        {"name": "known", "title": "A paper.", "Published": "77.6 %"}
    ]
    assert asked == ["known", "../../etc/passwd"]


def test_a_page_of_very_many_and_very_large_rows_stays_below_a_megabyte(
    make_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)

    def text(length: int = 5000) -> str:
        return draw.randbytes(length // 2).hex()  # that hardly packs

    def make_large(size: int) -> Row:
        return make_row(
            fields={"bottleneck": size},
            task=f"{size % 5} {text()}",
            per_class={text(): 1.0 for _ in range(40)},
            confusion=[[draw.randrange(10**9) for _ in range(40)] for _ in range(40)],
            curve=[{"epoch": number, "train_loss": draw.random(), "val_top1": 1.0} for number in range(300)],
            command=f"vision-peft train {text(100_000)}",
            backbone=text(),
            hardest=[{"item": text(), "true": text(), "answered": text(), "confidence": 0.5} for _ in range(12)],
            settings={f"recipe.{number}": text() for number in range(2)},
        )

    rows = [make_large(size) for size in range(40)]
    assert 250_000 < len(make_page(rows).encode()) <= MOST_BYTES == 1_000_000
    for limit, lost in ((250_000, "hardest items"), (160_000, "confusion matrices")):
        monkeypatch.setattr(html_page, "MOST_BYTES", limit)
        page = make_page(rows)
        assert 0.9 * limit < len(page.encode()) <= limit
        data = read_data(page)
        assert len(data["kinds"][0]["settings"]) == 40
        words = rf"{lost} of \d+ settings do not fit on a page .*"
        assert any(re.fullmatch(words, note) for note in data["notes"]), data["notes"]
    monkeypatch.setattr(html_page, "MOST_BYTES", 90_000)
    page = make_page(rows)
    assert len(page.encode()) <= 90_000
    data = read_data(page)
    assert 0 < len(data["kinds"][0]["settings"]) < 40
    assert any(
        re.fullmatch(r"\d+ more settings do not fit on a page .*: give fewer runs", note) for note in data["notes"]
    )


def test_a_page_of_many_kinds_with_many_figures_stays_below_a_megabyte(make_row: Make) -> None:
    rows, draw = [], random.Random(0)

    def text() -> str:
        return "".join(map(chr, draw.choices(range(0x4E00, 0x9FA5), k=190)))  # of three bytes each, which hardly pack

    for kind in range(20):
        words = {f"{kind} {number} {text()}": text() for number in range(MAX_FIGURES)}
        values = {"metric": next(iter(words)), "figure_words": words, "figures": dict.fromkeys(words, 1.0)}
        rows.append(make_row(task_kind="regression", setting=str(kind), **values))
    page = make_page(rows)
    assert len(page.encode()) <= MOST_BYTES
    data = read_data(page)
    shown = len(data["kinds"])
    assert 0 < shown < 20
    assert f"{20 - shown} more settings do not fit on a page of 1 MB: give fewer runs" in data["notes"]
    lost = f"{20 - shown} more kinds of figures do not fit on a page of 1 MB: give the runs of one kind"
    assert lost in data["notes"]


def contrast(first: str, second: str) -> float:
    """The contrast of two colours #rrggbb by WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1, 2])
def test_texts_and_lines_have_the_contrast_of_aa(theme: int) -> None:
    css = resources.files("vision_peft.results").joinpath("page/page.css").read_text("utf-8")
    block = re.findall(r":root[^{}]*\{([^}]*)\}", css)[theme]
    found = dict(re.findall(r"--([\w]+): (#\w+)", block))
    colours = {name: "#" + "".join(c * 2 for c in text[1:]) if len(text) == 4 else text for name, text in found.items()}
    assert len([name for name in colours if re.fullmatch(r"c\d+", name)]) == 16
    for back in ("back", "card"):
        for name in ("ink", "soft", "main"):
            assert contrast(colours[name], colours[back]) >= 4.5, (name, back)
    for name in ("ink", "main"):
        assert contrast(colours[name], colours["bar"]) >= 4.5, name
    assert contrast(colours["warn"], colours["warnback"]) >= 4.5
    for number in range(16):
        assert contrast(colours[f"c{number}"], colours["card"]) >= 3, number
