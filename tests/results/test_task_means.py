"""Means over tasks: of the methods that have all of them, seed by seed, with what they cost."""

from collections.abc import Callable
from typing import Any

import pytest

from vision_peft.results.row import Row
from vision_peft.results.settings import group_by_seed
from vision_peft.results.task_means import average_over_tasks

MakeRow = Callable[..., Row]


def runs(make_row: MakeRow, tasks: str, name: str = "lora", **changed: Any) -> list[Row]:
    """Rows of seeds 0 and 1 with top-1 of 10 for a, 20 for b and so on, and one more for seed 1."""
    fields = changed.pop("fields", {"rank": 8})
    return [
        make_row(name, fields, task=task, seed=seed, top1=10.0 + 10 * "abc".index(task) + seed, **changed)
        for task in tasks
        for seed in (0, 1)
    ]


def test_a_row_is_the_mean_of_a_seed_over_all_tasks(make_row: MakeRow) -> None:
    rows = runs(make_row, "a", lr=1e-3) + runs(make_row, "bc", lr=1e-2)
    for row in rows:
        row.step_ms = 100.0 * (1 + "abc".index(str(row.task)))
    means, notes = average_over_tasks(rows, "top1")
    assert notes == []
    assert [(row.dataset, row.task, row.seed, row.top1) for row in means] == [
        ("mean of 3 tasks", None, 0, 20.0),
        ("mean of 3 tasks", None, 1, 21.0),
    ]
    assert {(row.step_ms, row.params_trained, row.lr, row.weight_decay, row.top5, row.label) for row in means} == {
        (200.0, 1_189_632, None, 0.05, None, "LoRA-8")
    }


def test_a_method_without_a_task_or_a_seed_is_named_and_left_out(make_row: MakeRow) -> None:
    rows = runs(make_row, "abc") + runs(make_row, "ab", "ssf", fields={}) + runs(make_row, "abc", "vera")[1:]
    means, (note,) = average_over_tasks(rows, "top1")
    assert {row.label for row in means} == {"LoRA-8"}
    assert note == "not in the mean of 3 tasks, as tasks or seeds are missing: SSF, VeRA-8"
    with pytest.raises(ValueError, match=r"every method lacks some, .*; not in the mean .*: SSF, LoRA-8"):
        average_over_tasks(runs(make_row, "ab", "ssf", fields={}) + runs(make_row, "c"), "top1")
    with pytest.raises(ValueError, match="no mean over tasks"):
        average_over_tasks(runs(make_row, "a"), "top1")


def test_figures_of_other_tasks_and_sizes_that_val_chose(make_row: MakeRow) -> None:
    own: dict[str, Any] = {"metric": "miou", "task_kind": "segmentation", "tried": {"method.k": [5, 20]}}
    rows = [
        make_row("knn", {"k": k}, task=task, top1=None, figures={"miou": figure, "boundary_f": 1.0}, **own)
        for task, k, figure in (("a", 5, 40.0), ("b", 20, 60.0))
    ]
    ((mean,), _) = average_over_tasks(rows, "miou")
    assert (mean.figures, mean.top1, mean.label) == ({"miou": 50.0}, None, "k-NN")


def test_seeds_that_did_not_finish_are_rows_of_the_mean_too(make_row: MakeRow) -> None:
    lost = make_row("lora", {"rank": 8}, task="b", seed=7, top1=None, status="diverged", updates=40)
    means, notes = average_over_tasks([*runs(make_row, "ab"), lost], "top1")
    assert [(row.seed, row.status, row.top1) for row in means] == [
        (0, "finished", 15.0),
        (1, "finished", 16.0),
        (7, "diverged", None),
    ]
    (setting,) = group_by_seed(means)
    assert setting.describe_lost() == "1 of 3 seeds diverged at update 40"
    assert notes == []
    never = make_row("ssf", {}, task="b", seed=7, top1=None, status="diverged", updates=40)
    _, notes = average_over_tasks([*runs(make_row, "ab"), never], "top1")
    assert notes == ["SSF: 1 of 1 seed diverged at update 40"]


def test_times_of_several_machines_and_settings_of_single_tasks_are_not_those_of_the_mean(make_row: MakeRow) -> None:
    shared = {"recipe.lr": 1e-3, "recipe.augment": "flip"}
    rows = runs(make_row, "a", settings=shared, device="cuda (NVIDIA H200)", data_digest="1" * 64)
    rows += runs(make_row, "b", settings=shared | {"recipe.lr": 1e-2}, data_digest="2" * 64, lr=1e-2)
    (mean, _), _ = average_over_tasks(rows, "top1")
    assert (mean.step_ms, mean.peak_memory_mb, mean.device) == (None, None, "cuda (NVIDIA H200) and cpu")
    assert mean.settings == {"recipe.augment": "flip"}
    assert mean.params_trained == rows[0].params_trained
    other = [*rows[:2], *runs(make_row, "b", settings=shared, data_digest="3" * 64)]
    digests = {average_over_tasks(of, "top1")[0][0].data_digest for of in (rows, rows, other)}
    assert len(digests - {None}) == 2


def test_figures_in_several_units_have_no_mean(make_row: MakeRow) -> None:
    rows = [
        make_row(task=task, top1=None, metric="mae", figures={"mae": mae}, figure_words={"mae": f"MAE, {unit}"})
        for task, unit, mae in (("a", "mm", 700.0), ("b", "mm", 800.0), ("c", "grades", 0.5))
    ]
    means, _ = average_over_tasks(rows, "mae")
    assert [(row.dataset, row.figures) for row in means] == [("mean of 2 tasks", {"mae": 750.0})]
    with pytest.raises(ValueError, match="no mean over tasks"):
        average_over_tasks(rows[1:], "mae")
