"""A run that was stopped anywhere ends with the same adapter, bit for bit, as one that was not."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.killed import Killed, killed_at
from support.tiny_run import EVERYTHING, left_behind, tiny_config

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.stopping import Interrupted
from vision_peft.training import fit as fit_module
from vision_peft.training import progress as progress_module
from vision_peft.training import trained as train_module
from vision_peft.training.trained import train

Tiny = Callable[..., Config]


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run with EVERYTHING leaves that nobody stopped."""
    config = tiny_config(photos, tmp_path_factory.mktemp("whole"), *EVERYTHING)
    train(config)
    return left_behind(run_folder(config))


@pytest.mark.parametrize(
    ("save_every", "step", "part"),
    [("2", 0, 0), ("2", 4, 0), ("2", 5, 1), ("2", 6, 0), ("2", 7, 1), ("null", 4, 1), ("null", 6, 0)],
    ids=str,
)
def test_a_killed_run_resumes_bit_for_bit(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, Any],
    save_every: str,
    step: int,
    part: int,
) -> None:
    monkeypatch.setattr(progress_module, "SHORTEST_BETWEEN_EPOCHS_SECONDS", 0)
    killed = tiny(*EVERYTHING, f"save_every={save_every}")
    killed_at((step, part), killed)
    assert not (run_folder(killed) / "result.json").exists()
    train(killed)
    assert left_behind(run_folder(killed)) == uninterrupted


def test_a_run_killed_while_it_evaluates_resumes_bit_for_bit(tiny: Tiny, uninterrupted: dict[str, Any]) -> None:
    killed = tiny(*EVERYTHING, "save_every=3")
    killed_at("evaluation", killed)
    train(killed)
    assert left_behind(run_folder(killed)) == uninterrupted


def test_quick_epochs_share_a_state_and_the_last_one_is_always_saved(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    real = progress_module.save_state
    monkeypatch.setattr(
        progress_module, "save_state", lambda folder, step, *rest: saved.append(step) or real(folder, step, *rest)
    )
    train(tiny("recipe.epochs=3"))
    assert saved == [9]
    monkeypatch.setattr(progress_module, "SHORTEST_BETWEEN_EPOCHS_SECONDS", 0)
    train(tiny("recipe.epochs=3", "overwrite=true"))
    assert saved == [9, 3, 6, 9]


@pytest.mark.parametrize("step", [4, 7])
def test_both_phases_of_select_and_retrain_resume_bit_for_bit(tiny: Tiny, step: int) -> None:
    changes = ["protocol=val_select_retrain", "save_every=2", "method.dropout=0.3", "recipe.lr=1e-2"]
    whole, killed = tiny(*changes, folder="whole"), tiny(*changes, folder="killed")
    row = train(whole).row
    killed_at((step, 0), killed)
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))
    assert [entry["phase"] for entry in row.curve[:3]] == ["select", "select", "retrain"]


def test_balanced_classes_come_in_the_same_order_after_a_kill(tiny: Tiny) -> None:
    changes = [
        "data.balanced=true",
        "recipe.accumulate=2",
        "recipe.repeated_augmentation=2",
        "save_every=2",
        "recipe.augment=flip",
    ]
    whole, killed, plain = (
        tiny(*changes, folder="whole"),
        tiny(*changes, folder="killed"),
        tiny(*changes[1:], folder="x"),
    )
    train(whole)
    killed_at((4, 1), killed)
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))
    train(plain)
    assert left_behind(run_folder(plain)) != left_behind(run_folder(whole))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_at_the_next_update_and_the_run_resumes(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    whole, stopped = tiny("recipe.accumulate=2", folder="whole"), tiny("recipe.accumulate=2", folder="stopped")
    train(whole)

    def seed(*key: Any) -> None:
        if key[2:4] == (4, 0):
            os.kill(os.getpid(), number)
        real_seed(*key)

    before, real_seed = signal.getsignal(number), fit_module.seed_everything
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "seed_everything", seed)
        with pytest.raises(Interrupted, match="stopped after update 5; its state is saved") as caught:
            train(stopped)
    assert caught.value.signal == number
    assert signal.getsignal(number) == before
    capsys.readouterr()
    train(stopped)
    assert "resuming from update 5 (epoch 2)" in capsys.readouterr().out
    assert left_behind(run_folder(stopped)) == left_behind(run_folder(whole))


def test_resuming_falls_back_to_the_state_before_a_damaged_one(tiny: Tiny) -> None:
    whole, killed = tiny("save_every=1", folder="whole"), tiny("save_every=1", folder="killed")
    train(whole)
    killed_at((4, 0), killed)
    (run_folder(killed) / "state" / "step_4" / "state.pt").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="step_4 is damaged"):
        train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))


def test_a_run_killed_before_test_is_read_does_not_train_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()

    def fail(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate", fail)
        with pytest.raises(Killed):
            train(config)
    monkeypatch.setattr(fit_module, "seed_everything", fail)
    row = train(config).row
    assert row.top1 is not None
    assert len(row.curve) == 2


@pytest.mark.parametrize("after", [1, 6])
def test_sigterm_before_the_first_update_or_after_the_last_is_heeded_too(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole, stopped = tiny(folder="whole"), tiny(folder="stopped")
    train(whole)
    name = "cached_features" if after == 1 else "fit"
    real = getattr(train_module, name)

    def terminated(*arguments: Any) -> Any:
        result = real(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(train_module, name, terminated)
        with pytest.raises(Interrupted, match=f"stopped after update {after};"):
            train(stopped)
    assert (run_folder(stopped) / "REQUEUE").exists()
    train(stopped)
    assert not (run_folder(stopped) / "REQUEUE").exists()
    assert left_behind(run_folder(stopped)) == left_behind(run_folder(whole))
