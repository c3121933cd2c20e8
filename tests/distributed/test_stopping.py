"""The marker of a stop on request, and torchrun that starts processes again which wanted to stop."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.cli._errors import one_line_errors
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed import stopping
from vision_peft.distributed.stopping import Interrupted, StoppedBefore, StopRequests
from vision_peft.training import fit as fit_module
from vision_peft.training.trained import train

Tiny = Callable[..., Config]


def by_torchrun(monkeypatch: pytest.MonkeyPatch, run_id: str, restarts: int) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))


def test_torchrun_does_not_undo_a_stop_by_starting_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = tiny("max_time=1e-6")
    by_torchrun(monkeypatch, "first", restarts=0)
    with pytest.raises(Interrupted, match="stopped after update 1;"):
        train(config)
    marker = run_folder(config) / "REQUEUE"
    by_torchrun(monkeypatch, "first", restarts=1)
    for _ in range(2):
        with pytest.raises(StoppedBefore, match="was stopped on request"):
            train(config)
        assert marker.exists()
    assert "processes that torchrun restarts end as well" in capsys.readouterr().out


@pytest.mark.parametrize(("run_id", "restarts"), [("second", 0), ("first", 0), ("second", 1)])
def test_another_torchrun_goes_on_even_where_it_had_to_start_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, run_id: str, restarts: int
) -> None:
    by_torchrun(monkeypatch, "first", restarts=0)
    with pytest.raises(Interrupted):
        train(tiny("max_time=1e-6"))
    by_torchrun(monkeypatch, run_id, restarts)
    config = tiny()
    assert train(config).row.top1 is not None
    assert not (run_folder(config) / "REQUEUE").exists()


def test_a_marker_without_a_folder_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"requeue_file=.*absent/mark: .*absent is not a folder: make it, or name a"):
        train(tiny(f"requeue_file={tmp_path / 'absent' / 'mark'}"))
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        train(tiny(f"requeue_file={tmp_path}"))
    assert not (tmp_path / "runs").exists()


def test_a_marker_that_cannot_be_written_in_the_end_is_a_warning(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "marks").mkdir()

    def stop_without_folder(votes: Any, step: int) -> Interrupted | None:
        shutil.rmtree(tmp_path / "marks", ignore_errors=True)
        return real(votes, step)

    real = fit_module.stop_decision
    monkeypatch.setattr(fit_module, "stop_decision", stop_without_folder)
    with pytest.raises(SystemExit, match="85"), one_line_errors():
        train(tiny("max_time=1e-6", f"requeue_file={tmp_path / 'marks' / 'mark'}"))
    assert "warning: the marker of a stopped run could not be written (" in capsys.readouterr().out


def test_the_time_limit_counts_from_the_start_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic() + 3600  # of an interpreter that is an hour old, or of a sweep's second run
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    requests = StopRequests(max_time=1)
    assert requests.votes()[-1] == 0
    now += 59
    assert requests.votes()[-1] == 0
    now += 2
    assert requests.votes()[-1] == 1
    assert StopRequests(max_time=1).votes()[-1] == 0
