"""Figures of one name in several units: tables of their own, and no picture or mean of both."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vision_peft.results.plots.plot import plot_accuracy
from vision_peft.results.report import CSV_COLUMNS, make_reports
from vision_peft.results.row import Row

MakeRow = Callable[..., Row]


def make_rows(make_row: MakeRow) -> list[Row]:
    errors = {"top1": None, "metric": "mae"}
    return [
        make_row(task=task, seed=seed, figures={"mae": mae}, figure_words={"mae": f"MAE, {unit}"}, **errors)
        for task, unit, mae in (("a", "mm", 700.0), ("b", "grades", 0.5))
        for seed in (0, 1)
    ]


def test_a_report_has_a_table_for_each(make_row: MakeRow) -> None:
    reports = make_reports(make_rows(make_row), ["mae"], {})
    assert [report.title.rpartition(": ")[2] for report in reports] == ["MAE on test, mm", "MAE on test, grades"]
    assert [[name for name in report.columns if "mean" in name] for report in reports] == [[], []]


def test_a_picture_of_both_is_refused(make_row: MakeRow, tmp_path: Path) -> None:
    rows = make_rows(make_row)
    with pytest.raises(ValueError, match=r"plot together: mae of digits \(MAE, mm\) and digits \(MAE, grades\)"):
        plot_accuracy(rows, tmp_path / "both", "mae")
    plot_accuracy(rows[:2], tmp_path / "one", "mae", kinds=["svg"])


def test_the_mean_line_counts_the_seeds_that_every_task_has(make_row: MakeRow) -> None:
    rows = [make_row(dataset="bench", task="a", seed=seed) for seed in range(3)]
    rows += [make_row(dataset="bench", task="b", seed=0)]
    rows += [make_row(dataset="bench", task="b", seed=seed, top1=None, status="diverged") for seed in (1, 2)]
    (report,) = make_reports(rows, ["top1"], {})
    assert report.columns["seeds"] == ["1 to 3 of 3"]
    mean = next(cells for cells in report.numbers if "mean of 2 tasks" in cells)
    assert mean[CSV_COLUMNS.index("n_seeds")] == 1
    assert mean[-1] == "b: 2 of 3 seeds diverged"
