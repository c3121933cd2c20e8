"""What stands in the row of a run: what it was started with, what a resume changed, and how it ended."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.killed import killed_at
from support.tiny_run import tiny_config

from vision_peft.config import run_id
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed import device
from vision_peft.distributed.stopping import Interrupted
from vision_peft.results.find_rows import find_rows
from vision_peft.results.row import Row, read_row
from vision_peft.results.settings import group_by_seed
from vision_peft.runs import provenance
from vision_peft.training import fit as fit_module
from vision_peft.training import report as report_module
from vision_peft.training import trained as train_module
from vision_peft.training.progress import Diverged
from vision_peft.training.trained import train

Tiny = Callable[..., Config]


def read_status(config: Config) -> Row:
    return read_row(run_folder(config) / "status.json")


@pytest.fixture
def commit(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commit of the checkout, which a test may change."""
    now = ["early"]
    monkeypatch.setattr(provenance, "commit", lambda: now[0])
    return now


def test_the_row_holds_the_commit_of_the_start(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, commit: list[str]) -> None:
    real = train_module.evaluate

    def commit_meanwhile(*arguments: Any) -> Any:
        commit[0] = "later"
        return real(*arguments)

    monkeypatch.setattr(train_module, "evaluate", commit_meanwhile)
    row = train(tiny("recipe.epochs=1")).row
    assert (row.commit, row.resumed_with) == ("early", [])


def test_a_resume_with_other_code_and_precision_is_said_and_stands_in_the_row(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, commit: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at((4, 0), tiny("save_every=2"))
    commit[0] = "later"
    for module in (run_id, device):  # a machine on which auto is bf16
        monkeypatch.setattr(module, "choose_precision", lambda name, _: "bf16" if name == "auto" else name)
    real_version = provenance.version
    monkeypatch.setattr(provenance, "version", lambda name: "9.9" if name == "timm" else real_version(name))
    capsys.readouterr()
    row = train(tiny("save_every=2")).row
    said = "changes since its last start: commit later (was early), precision bf16 (was fp32), timm 9.9 (was "
    assert said in capsys.readouterr().out
    assert (row.commit, row.precision) == ("early", "fp32")
    assert row.resumed_with == [
        {"update": 4, "commit": "later", "versions": {"timm": "9.9"}, "precision": "bf16"},
    ]
    assert row.settings is not None
    assert row.settings["precision"] == "fp32"


def test_a_resume_that_changes_nothing_is_not_said(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    killed_at((4, 0), tiny("save_every=2"))
    capsys.readouterr()
    assert train(tiny("save_every=2")).row.resumed_with == []
    assert "has changed" not in capsys.readouterr().out


def test_a_state_of_an_earlier_version_is_resumed(tiny: Tiny) -> None:
    config = tiny("save_every=2")
    killed_at((4, 0), config)
    folder = run_folder(config) / "state" / "step_4"
    state = torch.load(folder / "state.pt", weights_only=True)
    for name in ("start", "settings", "tried", "resumed_with", "total_seconds"):
        del state["progress"][name]
    torch.save(state, folder / "state.pt")
    (folder / "sha256").write_text("")
    assert train(config).row.updates == 6


def test_seconds_are_those_of_all_starts(tiny: Tiny) -> None:
    config = tiny("save_every=2", "recipe.epochs=1")
    killed_at((2, 0), config)
    before = torch.load(run_folder(config) / "state" / "step_2" / "state.pt", weights_only=True)["progress"]
    row = train(config).row
    assert 0 < before["seconds"] < before["total_seconds"]
    assert row.total_seconds is not None
    assert row.total_seconds > max(before["total_seconds"], row.train_seconds)


def test_the_chosen_epoch_is_in_the_row(tiny: Tiny) -> None:
    row = train(tiny("recipe.epochs=2")).row
    (best,) = [entry for entry in row.curve if entry["epoch"] == row.chosen_epoch]
    assert best["val_top1"] == row.val_top1 == max(entry["val_top1"] for entry in row.curve)
    assert train(tiny("recipe.epochs=1", "protocol=last_epoch")).row.chosen_epoch is None


def test_the_row_names_the_surest_wrong_answers_as_the_data_does(tiny: Tiny, photos: Path) -> None:
    row = train(tiny("recipe.epochs=1")).row
    assert row.confusion is not None
    wrong = sum(sum(counts) - counts[truth] for truth, counts in enumerate(row.confusion))
    assert len(row.hardest) == min(wrong, 12) > 0
    for each in row.hardest:
        assert (photos / each["item"]).is_file()
        assert each["item"].split("/")[:2] == ["test", each["true"]]
        assert each["answered"] in {*row.per_class} - {each["true"]}
    assert [each["confidence"] for each in row.hardest] == sorted((e["confidence"] for e in row.hardest), reverse=True)


def diverge_from(update: int) -> Callable[..., Any]:
    """A `run_update` that gets NaN for images from this update on."""
    real = fit_module.run_update

    def poisoned(batches: Iterator[Any]) -> Iterator[Any]:
        for images, labels, indices in batches:
            yield torch.full_like(images, float("nan")), labels, indices

    def run_update(step: Any, batches: Iterator[Any], micro_batches: int, key: Any, votes: Any) -> Any:
        return real(step, poisoned(batches) if key[-1] >= update else batches, micro_batches, key, votes)

    return run_update


def test_a_run_that_diverges_leaves_a_row_that_says_so_and_is_not_finished(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("max_bad_steps=0", "save_every=1")
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "run_update", diverge_from(4))
        with pytest.raises(FloatingPointError):
            train(config)
    row = read_status(config)
    assert (row.status, row.top1, row.updates) == ("diverged", None, 5)
    assert "the loss is nan" in str(row.reason)
    assert row.n_test == 24
    assert not (run_folder(config) / "result.json").exists()
    finished = train(config).row
    assert (finished.status, finished.updates) == ("finished", 6)
    assert not (run_folder(config) / "status.json").exists()
    assert row.setting == finished.setting


def test_the_reason_of_a_divergence_is_short_enough_to_be_read_back(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any) -> Any:
        raise Diverged(f"the loss is nan on samples {', '.join(map(str, range(50_000)))}")

    monkeypatch.setattr(train_module, "fit", diverge)
    with pytest.raises(FloatingPointError):
        train(tiny())
    reason = read_status(tiny()).reason or ""
    assert reason.startswith("the loss is nan on samples 0, 1, ")
    assert len(reason) == 1000


def test_a_run_that_is_killed_is_unfinished_and_one_that_is_stopped_says_so(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, stopped = tiny("seed=1"), tiny("seed=2")
    killed_at((4, 0), killed)
    assert (read_status(killed).status, read_status(killed).reason) == ("unfinished", None)

    def stop(*_: Any) -> Any:
        raise Interrupted(None, 3)

    monkeypatch.setattr(train_module, "fit", stop)
    with pytest.raises(Interrupted):
        train(stopped)
    assert read_status(stopped).status == "stopped"
    assert "stopped after update 3" in str(read_status(stopped).reason)
    rows = find_rows([killed.output_dir])
    (setting,) = group_by_seed(rows)
    assert setting.describe_lost() == "1 of 2 seeds unfinished, 1 of 2 seeds stopped at update 0"


def test_a_status_that_cannot_be_written_is_said_and_stops_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def disk_full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report_module, "write_row", disk_full)
    config = tiny("recipe.epochs=1")
    assert train(config).row.top1 is not None
    path = run_folder(config) / "status.json"
    assert f"warning: could not write {path}: the disk is full" in capsys.readouterr().out


def test_files_of_weights_under_one_name_are_two_settings(tiny: Tiny, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"depth": 2, "embed_dim": 24, "img_size": 32, "num_classes": 0}
    rows = []
    for seed, name in enumerate(("a", "b", "c")):
        torch.manual_seed(seed % 2)
        (tmp_path / name).mkdir()
        model = timm.create_model("vit_tiny_patch16_224", **sizes)
        save_file(model.state_dict(), tmp_path / name / "vit.safetensors")
        checkpoint = f"backbone.checkpoint={tmp_path / name / 'vit.safetensors'}"
        rows.append(train(tiny(checkpoint, f"seed={seed}", "recipe.epochs=1")).row)
    assert [[row.seed for row in setting.rows] for setting in group_by_seed(rows)] == [[0, 2], [1]]
    assert rows[0].settings is not None
    assert rows[0].settings["backbone.checkpoint"] == "vit.safetensors"
    assert len({row.backbone for row in rows}) == 1


def test_folders_of_one_name_with_other_photos_are_two_settings_and_a_copy_is_one(photos: Path, tmp_path: Path) -> None:
    for place in ("a", "b", "c"):
        shutil.copytree(photos, tmp_path / place / "photos")
    changed = tmp_path / "b" / "photos" / "train" / "red" / "0.png"
    changed.rename(changed.with_name("another.png"))
    rows = [
        train(
            tiny_config(tmp_path / place / "photos", tmp_path / "runs" / place, f"seed={seed}", "recipe.epochs=1")
        ).row
        for seed, place in enumerate(("a", "b", "c"))
    ]
    assert {row.task for row in rows} == {"photos"}
    assert len({row.setting for row in rows}) == 1
    assert [[row.seed for row in setting.rows] for setting in group_by_seed(rows)] == [[0, 2], [1]]


def test_the_status_file_holds_the_fields_of_a_row(tiny: Tiny) -> None:
    config = tiny("recipe.epochs=1")
    killed_at((1, 0), config)
    unfinished = json.loads((run_folder(config) / "status.json").read_text())
    row = train(config).row
    finished = json.loads((run_folder(config) / "result.json").read_text())
    assert unfinished.keys() == finished.keys()
    assert unfinished["setting"] == row.setting
    assert unfinished["params_trained"] == row.params_trained > 0
