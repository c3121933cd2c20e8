"""Methods recommend the learning rates that the study chose on val."""

from collections.abc import Callable
from typing import Any

import pytest

import vision_peft as vp


@pytest.fixture
def script(read_script: Callable[[str], Any]) -> Any:
    return read_script("study_rates")


def test_methods_recommend_what_val_of_five_sets_chose(script: Any) -> None:
    chosen = script["list_chosen"]()
    assert {"lora", "adaptformer", "vpt", "full", "dtl"} <= chosen.keys()
    assert chosen == {name: vp.METHODS[name].recommended["lr"] for name in chosen}


def test_a_rate_counts_where_every_data_set_tried_it(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {
        "clothing": [(1e-3, 50.0), (3e-3, 60.0), (1e-2, 99.0)],
        "rsscn7": [(1e-3, 70.0), (3e-3, 60.0), (1e-2, None)],  # the last one diverged
    }

    def open_book(_: str, data: str) -> Any:
        trials = tried.get(data, [(1e-3, 60.0), (3e-3, 60.0)])
        return type("Book", (), {"trials": [{"lr": rate, "val_top1": val} for rate, val in trials]})

    monkeypatch.setitem(script["read_rates"].__globals__, "open_book", open_book)
    rates = script["read_rates"]("lora")
    assert rates == pytest.approx({1e-3: 60.0, 3e-3: 60.0})
    assert script["choose_rate"](rates) == 1e-3
