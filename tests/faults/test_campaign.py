"""Faults of a run in one process: whatever happens to it, the same command again ends as if nothing had happened."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.conftest import EPOCHS, UPDATES_PER_EPOCH, GoesOn, Note, Undisturbed
from support import harm
from support.program import finish, last_step, resumed_at, run_folder, saved_step, started
from support.tiny_run import left_behind

pytestmark = pytest.mark.faults
KILLS = 30


def test_thirty_kills_at_random_times_lose_a_save_interval_each_and_change_nothing(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, note: Note
) -> None:
    # All weights train: a save takes its time.
    long = [*(text for text in everything if "dropout" not in text), "recipe.epochs=30", "method=full"]
    whole = undisturbed("long", *long)
    draw = random.Random(6)
    targets = sorted(draw.sample(range(1, 30 * UPDATES_PER_EPOCH - 10), KILLS))
    folder, lost, saving, kept = tmp_path / "runs", [], 0, 0
    for target in targets:
        every, workers = draw.choice([1, 1, 2, 3]), draw.choice([0, 0, 2])
        during_save, starting, later = draw.random() < 0.5, draw.random() < 0.1, draw.uniform(0, 0.1)
        with started(folder, *long, f"save_every={every}", f"workers={workers}") as run:
            if starting:
                time.sleep(50 * later)
            else:
                run.until_step(target)
                if during_save:
                    run.until(lambda run=run: any(run.folder.glob("state/step_*.tmp")), poll_s=0)
                else:
                    time.sleep(later)
            os.kill(run.process.pid, signal.SIGKILL)
            assert run.end() == -signal.SIGKILL, run.text()
        if starting and "update" not in run.text():
            continue  # killed before there was anything to lose
        assert resumed_at(run.text()) == kept, run.text()
        saving += any(run_folder(folder).glob("state/step_*.tmp"))
        kept = saved_step(folder, tmp_path / "copy")
        lost.append(last_step(folder) - kept)
        assert 0 <= lost[-1] <= every, run.text()
    assert saving >= 5
    equal = resumed_at(finish(folder, *long)) == kept and left_behind(run_folder(folder)) == whole
    note("SIGKILL, one process", faults=KILLS, lost=max(lost), equal=equal)
    assert equal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_ends_a_run_with_its_own_code_and_the_mark_for_requeue(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, goes_on: GoesOn, number: signal.Signals
) -> None:
    whole, folder = undisturbed("one", *everything), tmp_path / "runs"
    with started(folder, *everything) as run:
        run.until_step(20)
        os.kill(run.process.pid, number)
        assert run.end() == 85, run.text()
    assert (run.folder / "REQUEUE").exists()
    assert goes_on(f"{number.name}, one process", folder, whole, *everything, at_most=0) >= 20
    assert not (run.folder / "REQUEUE").exists()


def test_a_killed_loader_process_is_named_and_the_run_resumes(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, goes_on: GoesOn
) -> None:
    whole, folder = undisturbed("one", *everything), tmp_path / "runs"
    slow = [*everything, "save_every=1", "workers=2", "cache_mb=0"]
    with started(folder, *slow) as run:
        run.until(lambda: run.step() >= 14 and len(run.loaders()) >= 2)
        victim = run.loaders()[0]
        os.kill(victim, signal.SIGKILL)
        assert run.end() == 1, run.text()
    assert re.search(rf"^error: DataLoader worker \(pid\(?s?\)? {victim}\).*the same command again", run.text(), re.M)
    assert "Traceback" not in run.text()
    goes_on("DataLoader worker killed", folder, whole, *slow, at_most=1)


@pytest.fixture(scope="module")
def stopped(everything: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that was killed in the middle, with two states two updates apart."""
    folder = tmp_path_factory.mktemp("stopped") / "runs"
    with started(folder, *everything, "save_every=2") as run:
        run.until_step(20)
        os.kill(run.process.pid, signal.SIGKILL)
        run.end()
    return folder


@pytest.mark.parametrize(
    ("damage", "fallen_back"),
    [
        (harm.truncate, 2),
        (harm.flip_a_bit, 2),
        (harm.lose_the_file, 2),
        (harm.lose_the_sums, 2),
        (harm.leave_rubbish, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_newest_state_costs_one_save_interval(
    everything: list[str],
    undisturbed: Undisturbed,
    stopped: Path,
    tmp_path: Path,
    note: Note,
    damage: Callable[[Path], None],
    fallen_back: int,
) -> None:
    whole, folder = undisturbed("one", *everything), tmp_path / "runs"
    shutil.copytree(stopped, folder)
    kept, done = saved_step(folder, tmp_path / "copy"), last_step(folder)
    damage(run_folder(folder) / "state")
    words = finish(folder, *everything, "save_every=2")
    assert resumed_at(words) == kept - fallen_back
    assert ("is damaged" in words) == bool(fallen_back), words
    equal = left_behind(run_folder(folder)) == whole
    names = {"leave_rubbish": "half-written files left behind", "truncate": "newest state truncated"}
    names |= {"flip_a_bit": "bit flipped in newest state", "lose_the_file": "newest state without state.pt"}
    name = names.get(damage.__name__, "newest state without checksums")
    note(name, lost=done - kept + fallen_back, equal=equal)
    assert equal


def test_a_full_disk_ends_the_run_with_the_older_state_whole(
    everything: list[str], undisturbed: Undisturbed, disk: Path, goes_on: GoesOn
) -> None:
    whole, words = undisturbed("one", *everything), [*everything, "save_every=1"]
    folder, ballast = disk / "runs", disk / "ballast"
    with started(folder, *words) as run:
        run.until_step(10)
        harm.fill(ballast)
        assert run.end() == 2, run.text()
    assert re.search(rf"^error: .*{disk}/.*disk is full.* \d+ bytes were free", run.text(), re.M), run.text()
    assert "Traceback" not in run.text()
    assert not list(folder.rglob("*.tmp"))
    ballast.unlink()
    assert goes_on("disk full (on_save_error=stop)", folder, whole, *words, at_most=1) >= 9


@pytest.mark.parametrize("back", [True, False], ids=["space comes back", "space does not come back"])
def test_a_full_disk_is_a_warning_where_that_is_wanted(
    everything: list[str], undisturbed: Undisturbed, disk: Path, note: Note, back: bool
) -> None:
    whole = undisturbed("one", *everything)
    folder, ballast, more = disk / "runs", disk / "ballast", disk / "more"
    with started(folder, *everything, "save_every=1", "on_save_error=warn") as run:
        run.until_step(10)
        harm.fill(ballast)
        run.until(lambda: run.text().count("training goes on without it") > 3)
        if back:
            ballast.unlink()
        else:
            harm.fill(more)  # what a state held that was being written has come free
        code = run.end()
    assert code == (0 if back else 2), run.text()
    if not back:
        assert f"could not write {run.folder}" in run.text().splitlines()[-1]
        assert "the disk is full" in run.text().splitlines()[-1]
        assert "Traceback" not in run.text()
        ballast.unlink()
        more.unlink()
        finish(folder, *everything)
    equal = left_behind(run_folder(folder)) == whole
    note("disk full (on_save_error=warn)", lost=0 if back else None, equal=equal)
    assert equal


def test_batches_with_nan_are_skipped_and_named(everything: list[str], tmp_path: Path, note: Note) -> None:
    folder = tmp_path / "runs"
    words = finish(folder, *everything, "max_bad_steps=2", script=harm.SCRIPT, environment={"NAN_SAMPLES": "3,7"})
    named = r"^warning: the loss is nan at (epoch .*), on samples ([\d, ]+):.*\(\d in a row\)$"
    skipped = re.findall(named, words, re.M)
    assert 12 <= len(skipped) <= 24  # two samples an epoch, in one batch or in two
    assert all({"3", "7"} & set(samples.split(", ")) for _, samples in skipped)
    assert len(left_behind(run_folder(folder))["curve"]) == EPOCHS
    assert _all_finite(folder)
    note("NaN in some samples", faults=len(skipped), equal=None)


def _all_finite(output_dir: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    folder = run_folder(output_dir)
    tensors = [t for file in folder.glob("adapter/*.safetensors") for t in load_file(file).values()]
    for file in folder.glob("state/*/state.pt"):
        state = torch.load(file, weights_only=True)
        tensors += [*state["tuned"].values(), *state["best"].values(), *(state["average"] or {}).values()]
    return bool(tensors) and all(bool(tensor.isfinite().all()) for tensor in tensors)
