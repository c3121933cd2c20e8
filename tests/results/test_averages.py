"""Means over tasks and groups: both conventions where all tasks are there, and what is missing is never hidden."""

import pytest

from vision_peft.results.averages import average_tasks, average_tasks_over_seeds
from vision_peft.results.settings import group_by_seed

GROUPS = {"near": ("a", "b", "c"), "far": ("d",)}


def test_both_averages_are_given_where_every_task_is_there() -> None:
    means = average_tasks({"a": 10.0, "b": 20.0, "c": 60.0, "d": 90.0, "other": 0.0}, GROUPS)
    assert means == {"near (3)": 30.0, "far (1)": 90.0, "mean of 4 tasks": 45.0, "mean of 2 groups": 60.0}


def test_a_missing_task_leaves_whole_groups_and_a_mean_that_counts_its_tasks() -> None:
    assert average_tasks({"a": 10.0, "b": 20.0, "d": 90.0}, GROUPS) == {"far (1)": 90.0, "mean of 3 tasks": 40.0}
    assert average_tasks({"a": 10.0, "b": 20.0}, {}) == {"mean of 2 tasks": 15.0}
    assert average_tasks({"a": 10.0}, GROUPS) == average_tasks({}, GROUPS) == average_tasks({}, {}) == {}


def test_spread_is_that_of_the_averages_of_the_seeds(make_row) -> None:
    values = {("a", 0): 10.0, ("a", 1): 30.0, ("b", 0): 50.0, ("b", 1): 40.0}
    settings = group_by_seed(make_row(task=task, seed=seed, top1=top1) for (task, seed), top1 in values.items())
    tasks = {str(setting.row.task): setting for setting in settings}
    # seed 0: (10 + 50) / 2 = 30, seed 1: (30 + 40) / 2 = 35
    mean, std = average_tasks_over_seeds(tasks, {}, "top1")["mean of 2 tasks"]
    assert (mean, std) == (32.5, pytest.approx(((30 - 32.5) ** 2 + (35 - 32.5) ** 2) ** 0.5))


def test_tasks_with_other_seeds_have_a_mean_without_spread(make_row) -> None:
    rows = [make_row(task="a", seed=0, top1=10.0), make_row(task="a", seed=1, top1=30.0), make_row(task="b", top1=60.0)]
    tasks = {str(setting.row.task): setting for setting in group_by_seed(rows)}
    assert average_tasks_over_seeds(tasks, {}, "top1") == {"mean of 2 tasks": (40.0, None)}
