"""Figures go to metrics.jsonl always, and to the trackers that the config names; a resumed run continues there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.killed import killed_at

from vision_peft.config import schema
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.runs import trackers
from vision_peft.runs.trackers import TRACKERS, Tracker, wandb_id
from vision_peft.training.trained import train

Tiny = Callable[..., Config]


class Notes(Tracker):
    """Keeps what it gets."""

    made: list["Notes"]

    def __init__(self, folder: Path, step: int, config: Any) -> None:
        self.start, self.got, self.closed = step, [], False
        self.made.append(self)

    def record(self, kind: str, step: int, values: Any) -> None:
        self.got.append((kind, step, dict(values)))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[Notes]:
    """Every tracker that is made in place of wandb's."""
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Notes)
    monkeypatch.setattr(Notes, "made", [], raising=False)
    return Notes.made


def test_the_config_names_the_trackers_that_there_are() -> None:
    assert set(schema.TRACKERS) == set(TRACKERS)


def test_metrics_are_in_their_file_whatever_tracks_them(tiny: Tiny, notes: list[Notes]) -> None:
    cases = (
        ("[]", False, 0),
        ("wandb", False, 1),
        ("[tensorboard,wandb]", True, 1),
        ("tensorboard", True, 0),
    )
    for number, (given, events, tracked) in enumerate(cases):
        notes.clear()
        config = tiny(f"trackers={given}", folder=f"runs{number}")
        train(config)
        lines = [json.loads(line) for line in (run_folder(config) / "metrics.jsonl").read_text().splitlines()]
        assert [line["kind"] for line in lines] == [*["step"] * 3, "epoch"] * 2 + ["test"]
        assert (run_folder(config) / "events").is_dir() == events
        assert len(notes) == tracked
        if notes:
            assert [(kind, step) for kind, step, _ in notes[0].got] == [(each["kind"], each["step"]) for each in lines]
            assert notes[0].closed
            assert all(isinstance(value, int | float) for _, _, values in notes[0].got for value in values.values())


def test_another_tracker_is_no_other_run_and_a_resumed_run_says_where_it_goes_on(
    tiny: Tiny, notes: list[Notes]
) -> None:
    config = tiny("trackers=wandb", "save_every=2")
    assert run_folder(config) == run_folder(tiny("save_every=2"))
    killed_at((4, 0), config)
    train(config)
    assert [tracker.start for tracker in notes] == [0, 4]


def test_an_unknown_tracker_is_refused_with_those_that_there_are(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="each of trackers must be one of tensorboard, wandb"):
        tiny("trackers=weights")


def test_a_dry_run_leaves_nothing_at_a_tracker_elsewhere(tiny: Tiny, notes: list[Notes]) -> None:
    train(tiny("trackers=wandb", "dry_run=true"))
    assert notes == []


def test_wandb_without_a_key_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="needs wandb, of the extra wandb")

    def refuse(**_: Any) -> None:
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ValueError, match=r"cannot start \(No API key configured\. Use .*WANDB_MODE=offline"):
        trackers.WandB(tmp_path, 0, {})


def test_wandb_is_imported_in_one_place(repository: Path) -> None:
    files = [path for path in (repository / "vision_peft").rglob("*.py") if "import wandb" in path.read_text()]
    assert [path.name for path in files] == ["trackers.py"]  # timm imports it too where it is installed


def test_wandb_offline_keeps_one_id_for_a_run_that_is_resumed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="needs wandb, of the extra wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "CONFIG_DIR": f"{tmp_path}/config"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    config = tiny("trackers=wandb", "save_every=2", "recipe.epochs=1")
    killed_at((2, 0), config)
    train(config)
    folder = run_folder(config)
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) >= 1
    assert {file.stem for file in files} == {f"run-{wandb_id(folder)}"}
    assert all(file.stat().st_size for file in files)
    assert wandb_id(folder) != wandb_id(folder.with_name("another"))
