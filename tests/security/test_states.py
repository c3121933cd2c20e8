"""Training states of strangers, checked entry by entry: a forged one is an error in one line and no traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hostile_text import HOSTILE, is_clean_line, list_leaves, message_of, with_leaf
from support.killed import killed_at
from support.tiny_run import EVERYTHING, tiny_config

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.protocols import PHASES
from vision_peft.runs.checkpoint import _sha256, read_state
from vision_peft.runs.train_state import TrainState, load_scaler
from vision_peft.training.build import attach_methods, create_bare_model, load_splits
from vision_peft.training.progress import Progress
from vision_peft.training.step import create_optimizer
from vision_peft.training.trained import train
from vision_peft.tuning.state import tuned_state_dict

ITSELF: list[Any] = []
ITSELF.append(ITSELF)
WRONG: list[Any] = [
    *(None, True, -1, 2**70, float("nan"), float("inf"), 1.5, "x", HOSTILE, b"x"),
    *([], [1], [None], [[]], {}, {"x": 1}, {1: 2}, {"x": {"y": None}}, (), ITSELF),
    *(torch.zeros(3), torch.zeros(()), torch.zeros(2, dtype=torch.cfloat), torch.zeros(1, 1, 1, 1, 1)),
]


@pytest.fixture(scope="module")
def stopped(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run with EVERYTHING that was killed in its second epoch."""
    config = tiny_config(photos, tmp_path_factory.mktemp("stopped"), *EVERYTHING, "save_every=1")
    killed_at((5, 0), config)
    return config


@pytest.fixture(scope="module")
def state(stopped: Config) -> tuple[dict[str, Any], Path]:
    folder = max((run_folder(stopped) / "state").glob("step_*"))
    return read_state(folder), folder


@pytest.fixture(scope="module")
def take_over(stopped: Config, state: tuple[dict[str, Any], Path]) -> Callable[[Any], None]:
    """What a run does with a state that it resumes from."""
    model = attach_methods(create_bare_model(stopped), stopped, load_splits(stopped)["train"], 3, torch.device("cpu"))
    tuned = tuned_state_dict(model)
    average = {name: tensor.clone() for name, tensor in tuned.items()}
    phases = len(PHASES[stopped.protocol])

    def take_over(entries: Any) -> None:
        found = entries, state[1]
        Progress.of(found, phases)
        TrainState(model, tuned, average, create_optimizer(model, stopped.recipe)).load_state_dict(*found)
        load_scaler(torch.amp.GradScaler("cpu"), entries["scaler"], state[1])

    return take_over


def test_a_true_state_is_taken_over(take_over: Callable[[Any], None], state: tuple[dict[str, Any], Path]) -> None:
    take_over(state[0])


def test_every_forged_entry_is_an_error_in_one_line_or_harmless(
    take_over: Callable[[Any], None], state: tuple[dict[str, Any], Path]
) -> None:
    entries, _ = state
    some = {name: dict([*entries[name].items()][:2]) for name in ("tuned", "average", "best", "moments")}
    small = {**entries, **some}
    places = [(name,) for name in entries] + [("progress", name) for name in entries["progress"]]
    places += [place for place in list_leaves(small) if place not in places]
    forged = refused = 0
    for place in places:
        for value in WRONG:
            changed = with_leaf(entries, place, value)
            forged += 1
            if message := message_of(lambda changed=changed: take_over(changed)):
                refused += 1
                assert len(message) < 2000
                assert is_clean_line(message.replace("\n  ", " ")), (place, message)
    assert forged > 1000
    assert refused > forged // 2


def test_entries_that_lack_or_have_others_are_refused(
    take_over: Callable[[Any], None], state: tuple[dict[str, Any], Path]
) -> None:
    entries, _ = state
    for name in entries:
        assert message_of(lambda name=name: take_over({k: v for k, v in entries.items() if k != name})), name
    for name in ("tuned", "average", "moments", "best"):
        first = next(iter(entries[name]))
        assert message_of(
            lambda name=name, first=first: take_over(
                {**entries, name: {key: value for key, value in entries[name].items() if key != first}}
            )
        ), name
        assert message_of(lambda name=name: take_over({**entries, name: {**entries[name], "x": torch.zeros(1)}})), name
    for change in ({"phase": 7}, {"best": {"x": 1}}):
        progress = {**entries["progress"], **change}
        assert message_of(lambda progress=progress: take_over({**entries, "progress": progress})), change


FORGED: list[dict[str, Any]] = [{"progress": {"step": "x"}}, {"moments": {"x/step": 1}}, {"tuned": {}}, {"best": 3}]


@pytest.mark.parametrize("change", FORGED)
def test_a_run_with_a_forged_state_ends_in_one_error(stopped: Config, change: dict[str, Any], tmp_path: Path) -> None:
    folder = max((run_folder(stopped) / "state").glob("step_*"))
    original = {path: path.read_bytes() for path in folder.iterdir()}
    ((name, value),) = change.items()
    entries = read_state(folder)
    entries[name] = {**entries[name], **value} if isinstance(value, dict) and value else value
    torch.save(entries, folder / "state.pt")
    (folder / "sha256").write_text(f"{_sha256(folder / 'state.pt')}  state.pt\n")
    try:
        with pytest.raises(ValueError, match=r"step_\d+|tuned tensors"):
            train(stopped)
    finally:
        for path, content in original.items():
            path.write_bytes(content)
