"""The table of a report: which rows join a line, what stands in a cell, and how each line is made again."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vision_peft.results.report import Report, make_report
from vision_peft.results.row import Row

SUITES = {"bench": {"near": ("a", "b"), "far": ("c",)}}
MakeRow = Callable[..., Row]


def runs(make_row: MakeRow, tasks: str = "abc", seeds: Sequence[int] = (0, 1), **changed: Any) -> list[Row]:
    """Rows of dataset bench with top-1 of 50, 60, 70 for a, b, c and one more for each seed."""
    rows = []
    for task in tasks:
        for seed in seeds:
            words = f"python tools/train.py data=bench recipe.lr=1e-3 data.task={task} seed={seed}"
            top1 = 50.0 + 10 * "abc".index(task) + seed
            rows.append(
                make_row(**({"dataset": "bench", "task": task, "seed": seed, "top1": top1, "command": words} | changed))
            )
    return rows


def table(report: Report) -> list[dict[str, str]]:
    return [dict(zip(report.columns, cells, strict=True)) for cells in zip(*report.columns.values(), strict=True)]


def test_a_line_holds_mean_and_spread_of_every_task_and_both_averages(make_row: MakeRow) -> None:
    (line,) = table(make_report(runs(make_row), suites=SUITES))
    assert line == {
        "method": "AdaptFormer-64",
        "seeds": "2",
        "a": "50.50 ± 0.71",
        "b": "60.50 ± 0.71",
        "c": "70.50 ± 0.71",
        "near (2)": "55.50 ± 0.71",
        "far (1)": "70.50 ± 0.71",
        "mean of 3 tasks": "60.50 ± 0.71",
        "mean of 2 groups": "63.00 ± 0.71",
        "trained": "1.19 M",
        "train time": "81 s",
    }


def test_a_part_of_the_benchmark_is_called_what_it_is(make_row: MakeRow) -> None:
    report = make_report(
        runs(make_row, "ac") + runs(make_row, "a", methods=[{"name": "linear", "fields": {}}]), suites=SUITES
    )
    lines = {line["method"]: line for line in table(report)}
    assert lines["AdaptFormer-64"]["mean of 2 tasks"] == "60.50 ± 0.71"
    assert lines["linear probe"]["mean of 2 tasks"] == "-"  # it lacks one of the tasks shown
    assert lines["linear probe"]["c"] == "-"
    assert "near (2)" not in report.columns
    assert "mean of 2 tasks: those shown, not the benchmark's 3" in report.notes


def test_tasks_beyond_the_benchmark_do_not_enter_its_averages(make_row: MakeRow) -> None:
    rows = [*runs(make_row, seeds=[0]), make_row(dataset="bench", task="zebra", top1=0.0)]
    (line,) = table(make_report(rows, suites=SUITES))
    assert list(line)[2:6] == ["a", "b", "c", "zebra"]
    assert line["mean of 3 tasks"] == "60.00"


def test_what_was_chosen_for_each_task_stays_one_line_and_says_so(make_row: MakeRow) -> None:
    rows = runs(make_row, "a", lr=1e-3, n_train=800) + runs(make_row, "b", lr=1e-2, n_train=900)
    (line,) = table(make_report(rows, suites=SUITES))
    assert line["recipe"] == "lr 0.001 to 0.01 by task"
    assert (line["a"], line["b"]) == ("50.50 ± 0.71", "60.50 ± 0.71")


def test_two_recipes_on_one_task_are_two_lines_that_tell_their_difference(make_row: MakeRow) -> None:
    rows = runs(make_row, "a", lr=1e-3) + runs(make_row, "ab", lr=1e-2)
    lines = table(make_report(rows, suites=SUITES))
    assert [(line["recipe"], line["b"]) for line in lines] == [("lr 0.001", "-"), ("lr 0.01", "60.50 ± 0.71")]


def test_equal_names_get_the_fields_in_which_they_differ(make_row: MakeRow) -> None:
    rows = [make_row("ssf", {"size": 10, "deep": deep, "dropout": 0.0}) for deep in (True, False)]
    assert sorted(line["method"] for line in table(make_report(rows))) == ["SSF-10 (deep=False)", "SSF-10 (deep=True)"]


def test_figures_selected_on_test_are_starred_also_in_the_averages(make_row: MakeRow) -> None:
    report = make_report(runs(make_row) + runs(make_row, protocol="best_test"), suites=SUITES)
    honest, starred = table(report)
    assert (honest["protocol"], starred["protocol"]) == ("val_select", "best_test")
    assert (starred["a"], starred["mean of 2 groups"]) == ("50.50 ± 0.71*", "63.00 ± 0.71*")
    assert not any("*" in cell for cell in honest.values())
    assert any("star: epoch selected on test" in note for note in report.notes)


def test_fewer_seeds_are_told_in_the_cell_and_missing_accuracies_below(make_row: MakeRow) -> None:
    rows = [*runs(make_row, "a"), *runs(make_row, "b", seeds=[0]), make_row(dataset="bench", task="c", top1=None)]
    report = make_report(rows, suites=SUITES)
    (line,) = table(report)
    assert (line["seeds"], line["b"], line["mean of 2 tasks"]) == ("1 to 2", "60.00 (n=1)", "55.25")
    assert "1 run without test accuracy left out" in report.notes


def test_several_datasets_have_their_names_in_the_head(make_row: MakeRow) -> None:
    (line,) = table(
        make_report([*runs(make_row, "abc"), *(make_row(top1=90.0, seed=seed) for seed in (0, 1))], suites=SUITES)
    )
    assert (line["bench a"], line["digits"], line["bench mean of 3 tasks"]) == (
        "50.50 ± 0.71",
        "90.00 ± 0.00",
        "60.50 ± 0.71",
    )


def test_commands_of_the_installed_program_become_sweeps_too(make_row: MakeRow) -> None:
    rows = [make_row(seed=seed, command=f"vision-peft train method=lora seed={seed}") for seed in (0, 1)]
    ((_, commands),) = make_report(rows, suites=SUITES).commands
    assert commands == ["vision-peft train -m method=lora seed=0,1"]


def test_commands_are_sweeps_that_name_a_whole_benchmark(make_row: MakeRow) -> None:
    def commands(rows: list[Row]) -> list[str]:
        return [command for _, commands in make_report(rows, suites=SUITES).commands for command in commands]

    words = "data=bench recipe.lr=1e-3"
    assert commands(runs(make_row)) == [f"python tools/train.py -m {words} data.task=all seed=0,1"]
    assert commands(runs(make_row, "ab", [3])) == [f"python tools/train.py {words} data.task=near seed=3"]
    assert commands(runs(make_row, "ac", [0])) == [f"python tools/train.py -m {words} data.task=a,c seed=0"]
    assert commands(runs(make_row, "b", [7])) == [f"python tools/train.py {words} data.task=b seed=7"]
    uneven = runs(make_row, "a", [0, 1]) + runs(make_row, "b", [0])
    assert commands(uneven) == [
        f"python tools/train.py -m {words} data.task=a seed=0,1",
        f"python tools/train.py {words} data.task=b seed=0",
    ]
    typed = [make_row(seed=seed, command="my own 'script") for seed in (0, 1)]
    assert commands(typed) == ["# my own 'script"] * 2  # no command of ours: a comment


def test_markdown_is_aligned_names_what_all_share_and_turns_where_it_is_too_wide(make_row: MakeRow) -> None:
    rows = runs(make_row, versions={"torch": "2.14.1"}, commit="abc") + runs(make_row, "a", backbone="x|y")
    report = make_report(rows, suites=SUITES)
    text = report.markdown()
    lines = text.splitlines()
    assert lines[0].startswith("bench, val_select, 1000 train images, 224 px, ")
    assert lines[0].endswith(": top-1 accuracy on test, %")
    assert [line[:8] for line in lines[2:6]] == ["| method", "| ------", "| AdaptF", "| AdaptF"]
    assert len({len(line) for line in lines[2:6]}) == 1
    assert r"x\|y" in text
    assert "* device: cpu, fp32" in lines
    assert "* commit: abc" in lines
    assert "* versions: torch 2.14.1" in lines
    turned = report.markdown(width=100)
    assert "\n| a " in turned
    assert len(turned.splitlines()[2]) < len(lines[2])
    assert report.markdown(width=len(lines[2])) == text


def test_the_csv_holds_every_number_and_the_averages(make_row: MakeRow, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(make_report(runs(make_row), suites=SUITES).csv_text(), newline="")
    with (tmp_path / "r.csv").open(newline="") as file:
        lines = {line["task"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["a", "b", "c", "near (2)", "far (1)", "mean of 3 tasks", "mean of 2 groups"]
    assert (lines["b"]["mean"], lines["b"]["std"], lines["b"]["n_seeds"]) == ("60.5000", "0.707107", "2")
    assert lines["mean of 2 groups"]["mean"] == "63.0000"
    assert "lr 0.001" in lines["a"]["recipe"]


def test_nothing_measured_is_an_error(make_row: MakeRow) -> None:
    with pytest.raises(ValueError, match="nothing to report: none of 1 rows has top1"):
        make_report([make_row(top1=None)])
    with pytest.raises(ValueError, match="metric must be one of top1, mean_per_class"):
        make_report([make_row()], "top5")  # type: ignore[arg-type]


def test_settings_that_differ_are_lines_whose_recipe_says_in_what(make_row: MakeRow) -> None:
    several = [{}, {"augment": "flip"}, {"label_smoothing": 0.3, "optimizer": "sgd"}, {"mixup": 0.8}, {"mixup": 0.2}]
    rows = [
        make_row(
            seed=seed,
            top1=90.0 + seed,
            setting=str(settings),
            settings={f"recipe.{key}": value for key, value in settings.items()},
            precision="bf16" if settings == {"mixup": 0.2} else "fp32",
        )
        for settings in several
        for seed in range(2)
    ]
    lines = table(make_report(rows))
    assert [line["recipe"] for line in lines] == [
        "fp32",
        "fp32, augment=flip",
        "fp32, label_smoothing=0.3, optimizer=sgd",
        "fp32, mixup=0.8",
        "bf16, mixup=0.2",
    ]
    assert {line["digits"] for line in lines} == {"90.50 ± 0.71"}


def test_what_all_lines_share_is_in_the_title_though_it_is_no_default(make_row: MakeRow) -> None:
    rows = [make_row(lr=lr, setting=str(lr), settings={"recipe.mixup": 0.8}) for lr in (1.0, 2.0)]
    report = make_report(rows)
    assert report.title.endswith("weight decay 0.05, mixup=0.8: top-1 accuracy on test, %")
    assert [line["recipe"] for line in table(report)] == ["lr 1", "lr 2"]


def test_the_same_settings_on_other_data_are_two_lines_and_name_it(make_row: MakeRow) -> None:
    rows = runs(make_row, "a", data_digest="1" * 64) + runs(make_row, "a", data_digest="2" * 64, top1=70.0)
    lines = table(make_report(rows + runs(make_row, "b", data_digest="3" * 64), suites=SUITES))
    assert [(line["recipe"], line["a"], line["b"]) for line in lines] == [
        ("data 11111111", "50.50 ± 0.71", "60.50 ± 0.71"),
        ("data 22222222", "70.00 ± 0.00", "-"),
    ]


def test_rows_of_earlier_versions_have_lines_of_their_own_and_a_note(make_row: MakeRow) -> None:
    early = runs(make_row, "a", setting=None, settings=None)
    report = make_report([*early, *runs(make_row, "ab")], suites=SUITES)
    assert sorted((line.get("recipe", ""), line["b"]) for line in table(report)) == [
        ("", "60.50 ± 0.71"),
        ("only some settings recorded", "-"),
    ]
    note = "2 runs of an earlier version, which recorded only some settings: what differs in others is not told apart"
    assert note in report.notes
    assert note in make_report(early, suites=SUITES).notes


def test_seeds_that_diverged_or_are_unfinished_are_counted_in_notes_table_and_csv(make_row: MakeRow) -> None:
    rows = runs(make_row, "a", seeds=[0, 1])
    rows += runs(make_row, "a", seeds=[2], top1=None, status="diverged", updates=40)
    rows += runs(make_row, "a", seeds=[3], top1=None, status="unfinished", updates=0)
    rows += runs(make_row, "a", seeds=[0], top1=None, status="diverged", updates=3, lr=1.0, setting="x")
    rows += runs(make_row, "a", seeds=[0], top1=None, status="diverged", n_test=0, lr=2.0, setting="y")  # a trial
    report = make_report(rows, suites=SUITES, without_row=1)
    (line,) = table(report)
    assert (line["seeds"], line["a"]) == ("2 of 4", "50.50 ± 0.71")
    words = "1 of 4 seeds diverged at update 40, 1 of 4 seeds unfinished at update 0"
    for note in (
        f"AdaptFormer-64 (lr=0.001): {words}",
        "AdaptFormer-64 (lr=1.0): 1 of 1 seed diverged at update 3",
        "1 run without test accuracy left out",
        "1 run without a row left out, unfinished",
    ):
        assert note in report.notes
        assert f"* {note}" in report.markdown().splitlines()
    lines = list(csv.DictReader(report.csv_text().splitlines()))
    assert [(line["n_seeds"], line["mean"], line["not_finished"]) for line in lines] == [
        ("2", "50.5000", words),
        ("0", "", "1 of 1 seed diverged at update 3"),
    ]


def test_nothing_but_diverged_runs_is_an_error_that_says_so(make_row: MakeRow) -> None:
    rows = [make_row(top1=None, status="diverged", updates=40)]
    with pytest.raises(ValueError, match=r"nothing to report: none of 1 rows .*; AdaptFormer-64: 1 of 1 seed diverged"):
        make_report(rows)


def test_what_was_chosen_on_val_and_out_of_what_is_told(make_row: MakeRow) -> None:
    searched = runs(make_row, "ab", tried={"recipe.lr": [0.1, 0.01], "method.targets": [["q"], ["q", "v"]]})
    words = "chosen on val: recipe.lr out of 0.01, 0.1; method.targets out of [q, v], [q]"
    assert words in make_report(searched, suites=SUITES).notes
    plain = runs(make_row, "a", name="linear", fields={})
    notes = make_report([*searched, *plain], suites=SUITES).notes
    assert f"{words} (AdaptFormer-64)" in notes
    assert "no search recorded: linear probe" in notes


def test_the_train_time_of_a_run_and_what_a_resume_changed_are_told(make_row: MakeRow) -> None:
    resumed = [{"update": 12, "precision": "bf16", "versions": {"torch": "2.15.0"}}]
    rows = [make_row(seed=0, train_seconds=10.0), make_row(seed=1, train_seconds=30.0, resumed_with=resumed)]
    report = make_report(rows)
    assert table(report)[0]["train time"] == "20 s"
    assert "AdaptFormer-64, seed 1: resumed after update 12 with precision bf16, torch 2.15.0" in report.notes


def test_sizes_and_settings_of_several_types_stand_beside_each_other(make_row: MakeRow) -> None:
    sizes = [make_row(task=task, img_size=size) for task, size in (("a", 224), ("b", [224, 112]), ("c", [64, 64]))]
    page = make_report(sizes).markdown()
    assert "224 px" in page
    assert "[224, 112] px" in page
    mixed: list[Any] = [1, "one", True, None, [1], 0.5, "{0}"]
    rows = [make_row(task=str(number), settings={"{0}": value}) for number, value in enumerate(mixed)]
    assert make_report(rows).markdown()
