"""Which settings join into one line of a report."""

from collections.abc import Callable

from vision_peft.results.report import Report, make_report
from vision_peft.results.row import Row

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
    rows += [make_row(dataset="clothes", setting="other", settings={"data.shots": 10})]
    assert sorted(line.get("recipe", "") for line in table(make_report(rows))) == [
        "",
        "data.shots=10 on clothes",
        "data.shots=100 on clothes",
    ]
