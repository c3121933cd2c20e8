"""Sweeps: which runs a file stands for, and doing them in processes, several at a time, with stops and failures."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.tiny_run import TINY, write_photos

from vision_peft.cli.main import main
from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import list_configs
from vision_peft.results.find_rows import find_rows
from vision_peft.runs.folder_lock import FolderLock
from vision_peft.runs.run_files import LOCK
from vision_peft.search import sweep as module
from vision_peft.search.sweep import Sweep, SweepRun, describe_failed, do_runs, list_runs, read_sweep
from vision_peft.search.sweep_jobs import LocalJob

# Stands for a training: makes its folder and leaves a row, fails, or waits until it is told to end.
SCRIPT = """
import pathlib, signal, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
(folder / "began").write_text((folder / "began").read_text() + "x" if (folder / "began").exists() else "x")
def end(*_):
    (folder / "saved").touch()
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
if what == "fail":
    sys.exit("error: the disk is full")
if what == "wait":
    (folder / "waits").touch()
    time.sleep(60)
(folder / "row").touch()
"""
START = functools.partial(LocalJob, command=(sys.executable, "-c", SCRIPT))
FILES = {"several": "runs: [method=lora, method=vpt method.tokens=5]\nacross: {recipe.lr: [1.0e-3, 1.0e-2]}"}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "own" / "sweep").mkdir(parents=True)
    for name, text in FILES.items():
        (tmp_path / "own" / "sweep" / f"{name}.yaml").write_text(text)
    return tmp_path / "own"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepRun]:
    row = SimpleNamespace(metric="top1", top1=90.0, figures={}, figure_words={})

    def find_row(run: SweepRun) -> Any:
        return row if (run.folder / "row").exists() else None

    monkeypatch.setattr(SweepRun, "find_row", find_row)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    config: Any = SimpleNamespace(output_dir=str(tmp_path), overwrite=False, dry_run=False)

    def run(name: str, what: str = "train") -> SweepRun:
        return SweepRun([str(tmp_path / name), what], config, tmp_path / name, name)

    return run


def test_every_value_goes_with_every_run_and_seed(configs: Path) -> None:
    runs = list_runs(read_sweep("several", configs), ["data=digits"], (0, 1))
    assert len(runs) == len({run.folder for run in runs}) == 8
    assert [run.config.seed for run in runs] == [0] * 4 + [1] * 4
    assert runs[3].name == "method=vpt method.tokens=5 recipe.lr=0.01 seed=0"
    assert runs[3].words == ["data=digits", *runs[3].name.split()]
    assert (runs[3].config.methods[0].name, runs[3].config.recipe.lr) == ("vpt", 0.01)


def test_what_is_typed_goes_before_the_sweep_and_the_same_run_is_done_once(configs: Path) -> None:
    runs = list_runs(read_sweep("several", configs), ["data=digits", "recipe.lr=0.5"])
    assert [run.config.recipe.lr for run in runs] == [0.5, 0.5]


@pytest.mark.parametrize("name", [name for name in list_configs("sweep") if name != "methods_x_sizes"])
def test_every_file_stands_for_runs_that_are_sound(name: str) -> None:
    runs = list_runs(read_sweep(name), ["data=digits"])
    assert len(runs) > 1
    assert len({run.folder for run in runs}) == len(runs)


def test_methods_are_compared_in_three_sizes_where_they_have_one() -> None:
    sweep = read_sweep("methods_x_sizes")
    counts: dict[str, int] = {}
    for words in sweep.runs:
        counts[words[0]] = counts.get(words[0], 0) + 1
    assert set(counts.values()) == {1, 3}
    part = Sweep(sweep.runs[::4], {})
    assert len(list_runs(part, ["data=digits"])) == len(part.runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "wanted runs"),
        ("across: {seed: [1]}", "wanted runs"),
        ("runs: [method=lora]\nwith: 3", "wanted runs"),
        ("runs: []", "runs must be a list of texts"),
        ("runs: [{method: lora}]", "runs must be a list of texts"),
        ("runs: [method=lora]\nacross: {seed: 3}", "across must hold a list of values"),
        ("runs: [method=lora]\nacross: {seed: []}", "across must hold a list of values"),
        ("runs: [", "sweep/broken.yaml"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text: str, message: str, configs: Path) -> None:
    (configs / "sweep" / "broken.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_sweep("broken", configs)


def test_an_unknown_sweep_and_wrong_values_are_named_before_anything_runs(configs: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep=severl: no such config.*several"):
        read_sweep("severl", configs)
    sweep = Sweep((("method=lora", "method.rnk=3"), ("method=vpt",)), {"recipe.lr": (-1.0, 1e-3)})
    with pytest.raises(ConfigError) as raised:
        list_runs(sweep, ["data=digits"])
    assert "rnk" in str(raised.value)
    assert "lr" in str(raised.value)
    with pytest.raises(ConfigError, match="has 20,000 runs"):
        list_runs(Sweep((("method=lora",),), {"recipe.lr": tuple(range(20_000))}), [])


def test_what_is_done_is_skipped_and_a_failure_stops_no_other(make: Callable[..., SweepRun]) -> None:
    runs, told = [make("a"), make("b", "fail"), make("c"), make("d")], list[str]()
    (runs[0].folder).mkdir()
    (runs[0].folder / "row").touch()
    outcome = do_runs(runs, 2, told.append, START)
    assert told[0] == "1 of 4 runs are done already"
    assert (len(outcome.rows), [run.name for run in outcome.failed]) == (3, ["b"])
    assert not (runs[0].folder / "began").exists()
    assert any("b: exit code 1, see" in line for line in told)
    assert told[-1].startswith("[4/4]")
    assert "left, about 1 min" in " ".join(told)
    assert describe_failed(outcome.failed) == ["b: error: the disk is full"]
    again = do_runs(runs, 1, told.append, START)
    assert [run.name for run in again.failed] == ["b"]
    assert (runs[1].folder / "began").read_text() == "xx"
    assert (runs[2].folder / "began").read_text() == "x"


@pytest.mark.parametrize("begun", ["before", "meanwhile"])
def test_a_run_of_another_process_is_waited_for(make: Callable[..., SweepRun], begun: str) -> None:
    run, told, locks = make("a"), list[str](), list[FolderLock]()
    run.folder.mkdir()

    def lock() -> None:
        locks.append(FolderLock(run.folder / LOCK))

    def start(*_: Any) -> Any:
        lock()  # the other process was quicker, and this one ends
        return SimpleNamespace(find_end=lambda: "exit code 2")

    def tell(line: str) -> None:
        told.append(line)
        if "waiting for it" in line:
            (run.folder / "row").touch()
            locks.pop().release()

    if begun == "before":
        lock()
    outcome = do_runs([run], 1, tell, START if begun == "before" else start)
    assert any("another process trains" in line for line in told)
    assert (len(outcome.rows), outcome.failed, locks) == (1, [], [])
    assert not (run.folder / "began").exists()


def test_a_run_whose_other_process_dies_while_it_is_looked_at_is_done_here(
    make: Callable[..., SweepRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, answers = make("a"), iter([True, True])
    monkeypatch.setattr(SweepRun, "is_taken", lambda _: next(answers, False))
    outcome = do_runs([run], 1, lambda _: None, START)
    assert (len(outcome.rows), outcome.failed) == (1, [])
    assert (run.folder / "began").read_text() == "x"


def test_seeds_and_a_seed_exclude_each_other(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep=several", "data=digits", "seed=5", "--seeds=0,1,2", f"--config-dir={configs}", "--list"]
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", *words])
    assert capsys.readouterr().err.splitlines()[-1] == "error: wanted one of --seeds 0,1,2 and seed=5, got both"
    assert [run.config.seed for run in list_runs(read_sweep("several", configs), ["data=digits", "seed=5"])] == [5] * 4


def test_ctrl_c_lets_what_runs_save_its_state(make: Callable[..., SweepRun], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("a", "wait")

    def sleep(_: float) -> None:
        if (run.folder / "waits").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", sleep)
    outcome = do_runs([run, make("b")], 1, lambda _: None, START)
    assert outcome.stopped
    assert (run.folder / "saved").exists()


def test_the_verb_lists_its_runs(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweep=several", "data=digits", f"--config-dir={configs}", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1].endswith(f"train --config-dir={configs} data=digits method=vpt method.tokens=5 recipe.lr=0.01")
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "data=digits"])
    assert "give exactly one sweep=NAME, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_ends_with_the_same_rows(tmp_path: Path, configs: Path) -> None:
    write_photos(tmp_path / "photos", {"train": 8, "val": 4, "test": 4})
    own = [f"--config-dir={configs}", "--jobs", "2"]
    typed = [sys.executable, "-m", "vision_peft", "sweep", "sweep=several", *TINY, f"data.root={tmp_path / 'photos'}"]
    tops: list[list[float | None]] = []
    for name, kill in (("killed", True), ("whole", False)):
        command = [*typed, "data=folder", f"output_dir={tmp_path / name}", *own]
        if kill:
            process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
            while not list((tmp_path / name).rglob("config.yaml")):
                time.sleep(0.1)
            os.kill(process.pid, signal.SIGKILL)  # its trainings live on, and are waited for
            process.wait()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = find_rows([tmp_path / name])
        tops.append([row.top1 for row in sorted(rows, key=lambda row: row.label + str(row.lr))])
    assert tops[0] == tops[1]
    assert len(tops[0]) == 4
