"""Successive halving: which settings go on, and that every method gets the same number of settings and epochs."""

from collections.abc import Callable
from typing import Any

import pytest
from support.rows import sample_row

from vision_peft.results.row import Row
from vision_peft.search.candidates import Candidate, count_epochs, describe_rungs
from vision_peft.search.halving import halve
from vision_peft.search.trials import Trial

RUNGS = ((4, 2), (2, 5), (1, 10))


def trial_with(score: float | None, values: dict[str, Any]) -> Trial:
    status = "finished" if score is not None else "diverged"
    row = sample_row(val_top1=score, top1=None, metric="top1", lower_is_better=False, status=status, reason=None)
    return Trial(values, Row(**row))


def halve_with(score: Callable[[dict[str, Any]], float | None]) -> list[tuple[float, int]]:
    settings = Candidate("any", ()).list_settings(1e-3, 4)
    trials = halve(settings, RUNGS, lambda values: trial_with(score(values), values))
    return [(trial.values["recipe.lr"], trial.values["recipe.epochs"]) for trial in trials]


def test_the_better_half_goes_on_for_more_epochs() -> None:
    order = {1e-3: 50.0, 3e-3: 70.0, 3e-4: 60.0, 1e-2: 10.0}
    tried = halve_with(lambda values: order[values["recipe.lr"]])
    assert tried == [(1e-3, 2), (3e-3, 2), (3e-4, 2), (1e-2, 2), (3e-3, 5), (3e-4, 5), (3e-3, 10)]
    assert sum(epochs for _, epochs in tried) == count_epochs(RUNGS) == 28


def test_a_later_round_orders_anew() -> None:
    def score(values: dict[str, Any]) -> float:
        return values["recipe.lr"] if values["recipe.epochs"] == 2 else -values["recipe.lr"] + 90

    assert halve_with(score)[-3:] == [(1e-2, 5), (3e-3, 5), (3e-3, 10)]


def test_what_diverges_does_not_go_on_and_where_all_do_the_search_ends() -> None:
    tried = halve_with(lambda values: None if values["recipe.lr"] > 1e-3 else 50.0)
    assert tried[4:] == [(1e-3, 5), (3e-4, 5), (1e-3, 10)]
    assert len(halve_with(lambda _: None)) == 4


@pytest.mark.parametrize("sizes", [(), (4,), (4, 16), (4, 16, 64)])
def test_methods_with_and_without_sizes_get_equally_many_settings(sizes: tuple[int, ...]) -> None:
    candidate = Candidate("LoRA", ("method=lora",), "method.rank" if sizes else None, sizes)
    settings = candidate.list_settings(4e-3, 4)
    assert len(settings) == len({str(values) for values in settings}) == 4
    assert settings[0]["recipe.lr"] == 4e-3
    if len(sizes) == 2:
        assert [(values["recipe.lr"], values["method.rank"]) for values in settings] == [
            (4e-3, 4),
            (4e-3, 16),
            (1e-2, 4),
            (1e-2, 16),
        ]


def test_rounds_are_described() -> None:
    assert describe_rungs(RUNGS) == "4, 2 and 1 settings for 2, 5 and 10 epochs"
    assert describe_rungs(((2, 3),)) == "2 settings for 3 epochs"
