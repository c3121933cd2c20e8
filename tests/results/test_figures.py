"""Rows of tasks other than classes in tables, reports, pictures and searches; rows of two tasks are never mixed."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from support.report_page import read_data

from vision_peft.cli import plot, report
from vision_peft.results.figures import (
    choose_metric,
    describe_metric,
    format_number,
    rank_val_score,
    select_rows,
    write_digits,
)
from vision_peft.results.report import make_report
from vision_peft.results.row import RESULT, STATUS, Row, write_row
from vision_peft.results.selection import describe_panel, name_data, select_measured
from vision_peft.results.table import format_rows
from vision_peft.search.trials import Trial, format_trials, rank_trials


@pytest.fixture
def measured(make_row: Callable[..., Row]) -> Callable[..., Row]:
    """Rows of a regression."""
    return functools.partial(make_measured, make_row)


def make_measured(
    make_row: Callable[..., Row], seed: int = 0, mae: float | None = 0.8, val: float | None = 0.75, **fields: Any
) -> Row:
    figures = {} if mae is None else {"mae": mae, "r2": 0.5}
    words = {"mae": "MAE, grades", "r2": "R²"}
    nothing = {"top1": None, "top5": None, "mean_per_class": None, "val_top1": None, "per_class": {}, "confusion": None}
    task = {"task_kind": "regression", "metric": "mae", "lower_is_better": True, "val_figure": val}
    return make_row(**(nothing | task | {"figures": figures, "figure_words": words, "seed": seed} | fields))


def test_a_table_names_the_figures_of_the_task(measured) -> None:
    text = format_rows([measured(), measured(seed=1, mae=0.9)], mean_over_seeds=True)
    assert "0.850 ± 0.071" in text
    assert "MAE grades" in text
    assert "val MAE grades" in text
    assert "top-1" not in text


def test_a_table_of_two_tasks_has_the_columns_of_both(measured, make_row) -> None:
    lines = format_rows([measured(), make_row(top1=97.5, name="lora")]).splitlines()
    head = next(line for line in lines if line.startswith("method"))
    assert "MAE grades" in head
    assert "top-1 %" in head


def test_a_report_is_of_the_figure_that_chose_and_names_its_unit(measured) -> None:
    rows = [measured(), measured(seed=1, mae=0.9)]
    assert choose_metric(rows, None) == ["mae"]
    found = make_report(rows, "mae")
    assert found.title.endswith("MAE on test, grades")
    assert "0.850 ± 0.071" in found.markdown()
    assert describe_metric(rows, "mae", axis=True) == "MAE (grades)"


def test_rows_of_two_tasks_never_stand_in_one_report(measured, make_row) -> None:
    rows = [measured(), make_row(top1=97.5)]
    assert choose_metric(rows, None) == ["mae", "top1"]
    assert [row.task_kind for row in select_rows(rows, "mae")] == ["regression"]
    assert [row.task_kind for row in select_rows(rows, "top1")] == ["classes"]
    assert "left out" not in make_report(select_rows(rows, "mae"), "mae").markdown()


def test_the_verbs_report_each_task_and_draw_the_one_that_is_named(tmp_path, capsys, measured, make_row) -> None:
    for name, row in (("a", measured()), ("b", make_row(top1=97.5))):
        write_row(tmp_path / "runs" / name / "result.json", row)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "all.csv")]) == 0
    shown = capsys.readouterr().out
    assert "MAE on test, grades" in shown
    assert "top-1 accuracy on test, %" in shown
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert len([line for line in lines if line.startswith("method,")]) == 1
    assert {line.split(",")[6] for line in lines[1:]} == {"mae", "top1"}
    with pytest.raises(ValueError, match=r"several kinds of task: .* --metric one of mae, top1"):
        plot.main([str(tmp_path / "runs"), "--out", str(tmp_path / "picture")])
    assert plot.main([str(tmp_path / "runs"), "--metric", "r2", "--out", str(tmp_path / "picture")]) == 0
    assert "R²" in (tmp_path / "picture.svg").read_text()
    with pytest.raises(ValueError, match="metric must be one of mae, r2, top1, mean_per_class, got maee"):
        report.main([str(tmp_path / "runs"), "--metric", "maee"])


@pytest.mark.parametrize("lost", ["stopped", "trial"])
def test_a_kind_of_task_without_a_finished_run_hides_no_other(tmp_path, capsys, measured, make_row, lost: str) -> None:
    runs, file = tmp_path / "runs", {"stopped": STATUS, "trial": RESULT}[lost]
    write_row(runs / "a" / RESULT, make_row(top1=97.5))
    fields = {"status": "stopped", "updates": 7} if lost == "stopped" else {}
    write_row(runs / "b" / file, measured(mae=None, **fields))
    why = {
        "stopped": "none of 1 rows has mae; AdaptFormer-64: 1 of 1 seed stopped at update 7",
        "trial": "none of 1 rows has mae (search trials do not read test)",
    }[lost]
    for name in ("all.md", "all.csv", "all.html"):
        assert report.main([str(runs), "--out", str(tmp_path / name)]) == 0
        shown = capsys.readouterr().out
        assert "97.50" in shown
        assert f"digits: MAE on test, grades\n\n* nothing to report: {why}\n" in shown
    assert why in (tmp_path / "all.md").read_text()
    lines = (tmp_path / "all.csv").read_text().splitlines()[1:]
    assert [line.split(",")[6:9] for line in lines] == [
        ["top1", "%", "1"],
        *([["mae", "grades", "0"]] if lost == "stopped" else []),
    ]
    page = json.dumps(read_data((tmp_path / "all.html").read_text("utf-8")))
    assert "97.50" in page
    assert f"no table of MAE on test, grades: {why}" in page
    assert plot.main([str(runs), "--out", str(tmp_path / "picture")]) == 0
    assert "not drawn: MAE on test, grades, which no finished run has" in capsys.readouterr().out
    (runs / "a" / RESULT).unlink()
    for verb, word in ((report, "report"), (plot, "plot")):
        with pytest.raises(ValueError, match=f"nothing to {word}: {re.escape(why)}$"):
            verb.main([str(runs), "--out", str(tmp_path / "none.csv")])


def test_a_run_that_did_not_read_test_is_a_trial_in_every_task(measured) -> None:
    selection = select_measured([measured(), measured(seed=1, mae=None)], "mae", "report")
    assert [len(setting.rows) for setting in selection.measured] == [1]
    assert selection.notes == ["1 run without test accuracy left out"]


def test_a_search_takes_the_lowest_error_first(measured, make_row) -> None:
    trials = [Trial({"recipe.lr": lr}, measured(val=val)) for lr, val in ((0.1, 0.9), (0.2, 0.7), (0.3, None))]
    assert [trial.values["recipe.lr"] for trial in rank_trials(trials)] == [0.2, 0.1, 0.3]
    assert "val MAE grades" in format_trials(trials)
    assert rank_val_score(make_row(val_top1=90.0)) == 90.0
    assert rank_val_score(dataclasses.replace(measured(), val_figure=None)) < rank_val_score(measured(val=1e9))


def test_figures_have_the_digits_that_they_need() -> None:
    assert [format_number(value) for value in (97.512, 1.5, 0.7991, -0.2)] == ["97.51", "1.50", "0.799", "-0.200"]
    assert format_number(0.071, 0.85) == "0.071"
    assert format_number(0.5, 97.0) == "0.50"


@pytest.mark.parametrize(
    ("dataset", "task", "name"),
    [
        ("vtab1k", "clothing", "vtab1k clothing"),
        ("fashion_mnist", "fashion-mnist", "fashion_mnist"),
        ("cifar100", None, "cifar100"),
        ("folder", "---", "folder ---"),
    ],
)
def test_data_in_a_folder_of_their_name_are_named_once(
    make_row: Callable[..., Row], dataset: str, task: str | None, name: str
) -> None:
    assert name_data(describe_panel(make_row(dataset=dataset, task=task))) == name


@pytest.mark.parametrize(
    ("value", "shown", "digits"),
    [
        (97.514, "97.51", "97.5140"),
        (0.7991, "0.799", "0.7991"),
        (0.0123, "0.0123", "0.0123"),
        (0.0, "0.000", "0.0000"),
        (-4e-5, "-0.0000400", "-4e-05"),
        (2.5e-7, "2.50e-07", "2.5e-07"),
    ],
)
def test_small_figures_keep_their_digits(value: float, shown: str, digits: str) -> None:
    assert format_number(value) == shown
    assert write_digits(value) == digits
