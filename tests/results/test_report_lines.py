"""Which settings join into one line of a report."""

import dataclasses
from collections.abc import Callable

from vision_peft.results.report import Report, make_report
from vision_peft.results.report_lines import Line, describe_tried
from vision_peft.results.row import Row
from vision_peft.results.settings import Setting

MakeRow = Callable[..., Row]


def table(report: Report) -> list[dict[str, str]]:
    return [dict(zip(report.columns, cells, strict=True)) for cells in zip(*report.columns.values(), strict=True)]


def test_a_size_that_val_chose_for_each_task_stays_one_line_too(make_row: MakeRow) -> None:
    rows = []
    for task, k in (("a", 5), ("b", 20)):
        rows += [make_row("knn", {"k": k}, task=task, tried={"method.k": [5, 20]})]
    (line,) = table(make_report(rows))
    assert (line["method"], line["recipe"]) == ("k-NN", "k 5 to 20 by task")
    for row in rows:
        row.tried = None
    assert [line["method"] for line in table(make_report(rows))] == ["k-NN-5", "k-NN-20"]


def test_settings_of_one_dataset_split_no_line_and_are_told_with_its_name(make_row: MakeRow) -> None:
    rows = [make_row(dataset="clothes", settings={"data.shots": 100}), make_row()]
    report = make_report([*rows, make_row("linear", {}, dataset="clothes", settings={"data.shots": 100})])
    assert [(line["method"], line["digits"]) for line in table(report)] == [
        ("AdaptFormer-64", "96.40"),
        ("linear probe", "-"),
    ]
    assert "data.shots=100 on clothes" in report.title
    report = make_report([*rows, make_row("linear", {})])
    assert "data.shots=100 on clothes" in report.title, "though a line has no such data"
    rows += [make_row(dataset="clothes", setting="other", settings={"data.shots": 10})]
    assert sorted(line.get("recipe", "") for line in table(make_report(rows))) == [
        "",
        "data.shots=10 on clothes",
        "data.shots=100 on clothes",
    ]


def solved(make_row: MakeRow, chosen: int, **changed: object) -> Row:
    """A row of a head that was solved for along a path of penalties, whose weakest is the recipe's weight decay."""
    penalties = [1e-6 * 10 ** (k / 2) for k in reversed(range(15))]
    curve = [{"phase": "select", "epoch": k + 1, "penalty": penalty} for k, penalty in enumerate(penalties)]
    tried = {"recipe.weight_decay": penalties}
    return make_row("linear", {}, curve=curve, chosen_epoch=chosen, weight_decay=1e-6, tried=tried, **changed)


def test_a_solved_head_has_the_penalty_that_val_chose(make_row: MakeRow) -> None:
    report = make_report([solved(make_row, 12)])
    assert "weight decay 3.16e-05" in report.title
    text = str(report)
    assert "1e-06" not in report.title
    assert "recipe.weight_decay out of 1e-06, 3.16e-06, 1e-05, 3.16e-05, 0.0001, " in text
    assert "3.1622776" not in text
    assert "0.0999" not in text


def test_what_a_head_was_solved_along_is_a_search_too(make_row: MakeRow) -> None:
    curve = [{"phase": "select", "epoch": k + 1, "k": 5 * (k + 1)} for k in range(3)]
    rows = [
        dataclasses.replace(solved(make_row, 12), tried={}),
        make_row("knn", {}, curve=curve),
        make_row(tried={"recipe.lr": [0.1, 0.01]}),
    ]
    rows += [make_row("ssf", {}, seed=seed) for seed in (0, 1)]
    names = ["linear probe", "k-NN", "AdaptFormer-64", "SSF", "SSF"]
    assert describe_tried(names, [Line({("digits", None): Setting((row,))}) for row in rows]) == [
        "chosen on val: penalty out of 1e-06, 3.16e-06, 1e-05, 3.16e-05, 0.0001, 0.000316, 0.001, 0.00316, 0.01, "
        "0.0316, 0.1, 0.316, 1, 3.16, 10 (linear probe)",
        "chosen on val: k out of 5, 10, 15 (k-NN)",
        "chosen on val: recipe.lr out of 0.01, 0.1 (AdaptFormer-64)",
        "no search recorded: SSF",
    ]


def test_seeds_of_a_solved_head_stay_one_line_whatever_val_chose(make_row: MakeRow) -> None:
    report = make_report([solved(make_row, 12, seed=0), solved(make_row, 13, seed=1)])
    (line,) = table(report)
    assert line["seeds"] == "2"
    assert "weight decay 1e-05 to 3.16e-05 by seed" in report.title
