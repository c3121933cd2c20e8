"""A sweep that starts over, and one of dry runs: what counts as done, and what as failed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.search import sweep as module
from vision_peft.search.sweep import SweepRun, do_runs
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
QUICK = ("recipe.epochs=1", "method=linear")


class Here:
    """A job that trains in this process, or that ends before it begins."""

    def __init__(self, run: Any, slot: int, jobs: int, fails: bool = False) -> None:
        self.passed = not fails
        try:
            if not fails:
                train(run.config)
        except FloatingPointError:
            self.passed = False

    def find_end(self) -> str:
        return "exit code 0" if self.passed else "exit code 2"

    def has_passed(self) -> bool:
        return self.passed

    def stop(self) -> None:
        return None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.001)


def make_run(config: Config) -> SweepRun:
    return SweepRun([], config, run_folder(config), "a")


def fail(*given: Any) -> Here:
    return Here(*given, fails=True)


def test_a_finished_run_that_is_done_over_is_done_and_not_failed(tiny: Tiny) -> None:
    first = train(tiny(*QUICK)).row
    outcome = do_runs([make_run(tiny(*QUICK, "overwrite=true"))], 1, lambda _: None, Here)
    assert (outcome.failed, [row.top1 for row in outcome.rows]) == ([], [first.top1])


def test_a_run_that_fails_before_it_starts_over_has_failed_whatever_is_there(tiny: Tiny) -> None:
    train(tiny(*QUICK))
    run = make_run(tiny(*QUICK, "overwrite=true"))
    outcome = do_runs([run], 1, lambda _: None, fail)
    assert (outcome.failed, outcome.rows) == ([run], [])


def test_a_run_that_diverged_is_done_over(tiny: Tiny) -> None:
    bad = "recipe.optimizer=sgd", "recipe.lr=1e30", "recipe.epochs=2"
    with pytest.raises(FloatingPointError):
        train(tiny(*bad))
    started: list[Config] = []

    def start(run: Any, slot: int, jobs: int) -> Here:
        started.append(run.config)
        return Here(run, slot, jobs)

    outcome = do_runs([make_run(tiny(*bad))], 1, lambda _: None, start)
    assert ([row.status for row in outcome.rows], started) == (["diverged"], [])
    outcome = do_runs([make_run(tiny(*bad, "overwrite=true"))], 1, lambda _: None, start)
    assert ([row.status for row in outcome.rows], outcome.failed, len(started)) == (["diverged"], [], 1)


@pytest.mark.parametrize("done", [False, True])
def test_a_dry_run_that_passed_has_not_failed(tiny: Tiny, tmp_path: Path, done: bool) -> None:
    if done:
        train(tiny(*QUICK))
    told: list[str] = []
    run = make_run(tiny(*QUICK, "dry_run=true"))
    outcome = do_runs([run], 1, told.append, Here)
    assert (outcome.passed, outcome.failed, outcome.rows) == ([run], [], [])
    assert "a: dry run passed" in told[-1]
    outcome = do_runs([run], 1, told.append, fail)
    assert (outcome.passed, outcome.failed) == ([], [run])
