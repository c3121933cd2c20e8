"""compare.json: what is kept of an earlier start, and files that somebody changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.search.compare_state import FILE, SKIPPED, Progress, State, open_state

OF = {"seed": 0, "levels": [[[4, 2]], [[2, 1]], [[1, 1]]]}


def open_here(folder: Path, budget_s: float = 60.0) -> State:
    return open_state(folder, OF, budget_s, None, False)


@pytest.fixture
def saved(tmp_path: Path) -> State:
    """What stands in `tmp_path`."""
    state = open_here(tmp_path)
    state.level, state.used_s = 2, 50.0
    state.candidates["LoRA"] = Progress(["method=lora"], 1.0, 2.0, SKIPPED, "no time", 3.0, 4.0, {"inference": 1.1})
    state.save(tmp_path)
    return state


def test_with_another_budget_measurements_are_kept_and_decisions_are_not(saved: State, tmp_path: Path) -> None:
    assert open_here(tmp_path) == saved
    other = open_here(tmp_path, 120.0)
    assert (other.level, other.used_s) == (None, 0.0)
    assert other.candidates == {"LoRA": Progress(["method=lora"], 1.0, 2.0)}


def of_lora(**values: Any) -> Callable[[Any], Any]:
    return lambda raw: raw["candidates"]["LoRA"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(level=99), "level must be one of the 3 levels, from 0, or null, got 99"),
        (lambda raw: raw.update(level=-1), "level must be .*, got -1"),
        (lambda raw: raw.update(level=True), "level must be .*, got True"),
        (lambda raw: raw.update(used_s=-5.0), r"used_s must be seconds from 0 to 1e\+15, got -5.0"),
        (lambda raw: raw.update(budget_s=1e300), "budget_s must be seconds"),
        (lambda raw: raw.update(budget_s="60"), "budget_s must be seconds"),
        (lambda raw: raw.update(memory=3), "memory must be a text or null, got 3"),
        (lambda raw: raw.update(of=[1]), "of must be an object"),
        (lambda raw: raw.update(more=1), "it must have no other keys than of, .*, got more"),
        (lambda raw: raw.pop("budget_s"), "it must have budget_s"),
        (lambda raw: raw.update(candidates=[1]), "candidates must be an object"),
        (lambda raw: raw["candidates"].update(LoRA=3), "candidates.LoRA must be an object, got 3"),
        (of_lora(other=1), "candidates.LoRA must have no other keys"),
        (of_lora(ratios={"inference": "x"}), r"candidates.LoRA.ratios must be numbers or null by inference and merged"),
        (of_lora(ratios={"other": 1.0}), r"candidates.LoRA.ratios must be"),
        (of_lora(ratios={"merged": -1.0}), r"candidates.LoRA.ratios must be"),
        (of_lora(words=[3]), "candidates.LoRA.words must be a list of texts"),
        (of_lora(why=None), "candidates.LoRA.why must be a text"),
        (of_lora(state="over"), "candidates.LoRA.state must be one of open, done, skipped, got over"),
        (of_lora(took_s=-1), "candidates.LoRA.took_s must be seconds"),
        (of_lora(estimate_s=True), "candidates.LoRA.estimate_s must be seconds"),
        (of_lora(start_s=None), "candidates.LoRA.start_s must be a number where update_s is one, got None"),
    ],
)
def test_a_file_that_somebody_changed_is_one_error_that_names_it(
    change: Callable[[Any], Any], message: str, saved: State, tmp_path: Path
) -> None:
    path = tmp_path / FILE
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    whole = rf"compare\.json is not what a comparison writes there \({message}.*\): overwrite=true starts over"
    with pytest.raises(ValueError, match=whole) as refused:
        open_here(tmp_path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert open_state(tmp_path, OF, 60.0, None, True).candidates == {}


@pytest.mark.parametrize("text", ["[1]", "{", '{"of": 3}', "null", ""])
def test_a_file_of_something_else_is_one_error_too(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=r"is not what a comparison writes there .*overwrite=true starts over"):
        open_here(tmp_path)


def test_a_file_without_what_has_a_default_is_read(saved: State, tmp_path: Path) -> None:
    path = tmp_path / FILE
    raw = json.loads(path.read_text())
    del raw["used_s"], raw["candidates"]["LoRA"]["ratios"]
    path.write_text(json.dumps(raw))
    state = open_here(tmp_path)
    assert (state.used_s, state.candidates["LoRA"].ratios, state.level) == (0.0, {}, saved.level)
