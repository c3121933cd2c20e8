"""What a run does with a state that it did not write itself."""

from collections.abc import Callable
from typing import Any

import pytest

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.runs.checkpoint import newest_state, save_state
from vision_peft.training.progress import Progress
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
State = dict[str, Any]


def lacks_the_scaler(state: State) -> State:
    return {key: value for key, value in state.items() if key != "scaler"}


def lacks_the_average(state: State) -> State:
    return {key: value for key, value in state.items() if key != "average"}


def counts_something_else(state: State) -> State:
    return {**state, "progress": {**state["progress"], "images": 3}}


def counts_less(state: State) -> State:
    return {**state, "progress": {"step": 3}}


def is_something_else(state: State) -> State:
    return {"model": state["tuned"]}


def has_moments_of_something_else(state: State) -> State:
    return {**state, "moments": {f"blocks.7.{name}": value for name, value in state["moments"].items()}}


@pytest.mark.parametrize(
    "change", [lacks_the_scaler, lacks_the_average, counts_something_else, counts_less, is_something_else]
)
def test_a_state_of_another_version_is_named_with_the_ways_out(tiny: Tiny, change: Callable[[State], State]) -> None:
    folder = unfinished(tiny, change)
    with pytest.raises(ValueError, match=r"step_7 is not a state as this version of .*: end .* or .* overwrite=true"):
        train(tiny())
    assert (folder / "state" / "step_7").is_dir()


def test_moments_of_parameters_that_do_not_train_are_named(tiny: Tiny) -> None:
    unfinished(tiny, has_moments_of_something_else)
    with pytest.raises(ValueError, match=r"step_7 keeps blocks\.7\.\S+: this run trains no blocks\.7\."):
        train(tiny())


def test_a_run_without_a_state_begins_at_nothing() -> None:
    assert Progress.of(None, 1) == Progress()


def unfinished(tiny: Tiny, change: Callable[[State], State]) -> Any:
    """The folder of a run that lacks its last files, with a changed state as the newest."""
    folder = run_folder(tiny())
    train(tiny())
    (folder / "result.json").unlink()
    found = newest_state(folder / "state")
    assert found is not None
    state = change(found[0])
    if "progress" in state and "epoch" in state["progress"]:
        state["progress"]["epoch"] = 1  # there is an epoch left
    save_state(folder / "state", 7, state)
    return folder
