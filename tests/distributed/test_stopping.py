"""The marker of a stop on request, and torchrun that starts processes again which wanted to stop."""

import time
from collections.abc import Callable

import pytest

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed import stopping
from vision_peft.distributed.stopping import Interrupted, StoppedBefore, StopRequests
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
