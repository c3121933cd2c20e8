"""What is wrong with a recipe is said by the key that was typed."""

from typing import Any

import pytest

from vision_peft.config.recipe_rules import head_problem


@pytest.mark.parametrize(
    ("kind", "options", "begins", "ends"),
    [
        ("seg_pupp", {}, "head must be one of 'attentive'", "got 'seg_pupp' (did you mean seg_pup?)"),
        ("xyz", {}, "head must be one of", "got 'xyz'"),
        ("attentive", {"querys": 2}, "head_options: a head of kind attentive has no option 'querys' (did", "reduce"),
        ("seg_pup", {"steps": 9}, "head_options.steps must be at most 5", "got 9"),
        ("linear", {"steps": 9}, "head_options: a head of kind linear has no options", "got {'steps': 9}"),
    ],
)
def test_heads(kind: str, options: dict[str, Any], begins: str, ends: str) -> None:
    problem = head_problem(kind, options) or ""
    assert problem.startswith(begins)
    assert problem.endswith(ends)


def test_heads_that_there_are() -> None:
    assert head_problem("class_mean", {}) is None
    assert head_problem("attentive", {"queries": 4}) is None
