"""overwrite=true deletes at the first start: whoever starts the same words again gets the run that goes on."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.killed import killed_at

from vision_peft.cli._errors import one_line_errors
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.processes import LostProcess
from vision_peft.distributed.stopping import Interrupted
from vision_peft.distributed.submit_job import Training
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


@pytest.fixture(autouse=True)
def first_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COUNTS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_started_again_by_torchrun_or_slurm_resumes(
    tiny: Tiny, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("overwrite=true", "save_every=2")
    monkeypatch.setenv(name, "0")
    killed_at((4, 0), config)
    monkeypatch.setenv(name, "1")
    capsys.readouterr()
    train(config)
    assert "resuming from update 4" in capsys.readouterr().out
    assert "overwrite=true is left out: torchrun or Slurm" in (run_folder(config) / "log.txt").read_text()


def test_a_person_who_types_it_again_starts_over(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny("overwrite=true", "save_every=2")
    killed_at((4, 0), config)
    train(config)
    assert "resuming" not in capsys.readouterr().out
    assert "left out" not in (run_folder(config) / "log.txt").read_text()


@pytest.mark.parametrize("text", ["damaged", None], ids=["damaged", "of_the_run_before"])
def test_nothing_is_taken_over_from_the_run_that_is_deleted(tiny: Tiny, text: str | None) -> None:
    config = tiny("recipe.epochs=1", "memory=50%")
    train(config)
    memory = run_folder(config) / "memory.json"
    memory.write_text(text or memory.read_text())
    train(tiny("recipe.epochs=1", "overwrite=true"))
    assert not memory.exists()
    assert "as at the first start of this run" not in (run_folder(config) / "log.txt").read_text()


@pytest.mark.parametrize(("word", "how"), [("overwrite=true", "without overwrite=true"), ("overwrite=false", "again")])
def test_the_message_of_a_stop_names_the_command_that_goes_on(
    tiny: Tiny, word: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        train(tiny("max_time=1e-6", word))
    said = f"stopped after update 1; its state is saved: the same command {how} resumes there"
    assert said in capsys.readouterr().out


def test_a_job_goes_back_into_the_queue_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(training: Any) -> Any:
        return training

    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(helpers=SimpleNamespace(DelayedSubmission=keep)))
    again = Training(2, ["method=lora", "++overwrite=true", "overwrite=True", "data.root=overwrite=true"]).checkpoint()
    assert again.overrides == ["method=lora", "data.root=overwrite=true"]


@pytest.mark.parametrize(
    "error",
    [LostProcess("process 1 is gone"), KeyboardInterrupt(), OSError("disk full: the same command resumes from ...")],
    ids=["lost", "ctrl-c", "disk"],
)
def test_errors_name_the_command_that_goes_on(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vision-peft", "train", "++overwrite=true"])
    with pytest.raises(SystemExit), one_line_errors():
        raise error
    assert "the same command without overwrite=true resumes from" in capsys.readouterr().err
