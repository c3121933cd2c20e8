"""Means over tasks: of the methods that have all of them, seed by seed, with what they cost."""

from collections.abc import Callable
from typing import Any

import pytest

from vision_peft.results.row import Row
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
    assert note == "left out of the mean of 3 tasks, as tasks or seeds are missing: SSF, VeRA-8"
    with pytest.raises(ValueError, match=r"no method has two or more and all that are there; left out .*: SSF, LoRA-8"):
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
