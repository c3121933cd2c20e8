"""The trainings of a sweep as processes of this machine, and as jobs of Slurm."""

import functools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.tiny_run import TINY, write_photos

from vision_peft.cli.main import main
from vision_peft.distributed.submit_job import Resources
from vision_peft.results.find_rows import find_rows
from vision_peft.search import sweep_jobs as module
from vision_peft.search.sweep import SweepRun, do_runs
from vision_peft.search.sweep_jobs import SubmittedJob, choose_share


def test_jobs_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "count_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert choose_share(0, 1) == {}
    assert [choose_share(slot, 3) for slot in range(3)] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": device} for device in ("4", "6", "4")
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert choose_share(1, 3) == {}


def test_jobs_of_slurm_are_watched_and_outlive_the_sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two jobs the first ends without a row, and the second is at work when Ctrl-C comes."""
    submitted: list[Any] = []
    states = iter(["RUNNING", "TIMEOUT"])

    def submit(words: list[str], resources: Resources, folder: Path, log: Path) -> Any:
        submitted.append((words, resources, folder, log))
        if len(submitted) == 2:
            job = SimpleNamespace(job_id="8", done=lambda: interrupt())
        else:
            job = SimpleNamespace(job_id="7", done=lambda: next(states) == "TIMEOUT", state="TIMEOUT")
        return job

    def interrupt() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "submit_training", submit)
    monkeypatch.setattr("vision_peft.search.sweep.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(SweepRun, "find_row", lambda _: None)
    config: Any = SimpleNamespace(output_dir=str(tmp_path), overwrite=False, dry_run=False)
    runs = [SweepRun([f"method={name}"], config, tmp_path / name, name) for name in ("lora", "vpt")]
    resources, told = Resources(partition="gpu"), list[str]()
    start = functools.partial(SubmittedJob, resources=resources, folder=tmp_path / "jobs")
    outcome = do_runs(runs, 1, told.append, start)
    assert outcome.stopped
    assert outcome.failed == runs[:1]
    assert told[0].startswith(f"[1/2] lora: job 7 TIMEOUT, see {runs[0].log}")
    assert told[-1] == "vpt: job 8 goes on"
    assert submitted[0] == (["method=lora"], resources, tmp_path / "jobs", runs[0].log.absolute())


def test_without_slurm_a_sweep_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("submitit", reason="needs submitit, of the extra test")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "sweep=learning_rate", "data=digits", f"output_dir={tmp_path}", "--slurm"])
    assert capsys.readouterr().err.startswith("error: this machine has no srun")


@pytest.mark.slow
def test_a_sweep_by_submitit_ends_with_a_row_of_each_run(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit, of the extra test")
    write_photos(tmp_path / "photos", {"train": 8, "val": 4, "test": 4})
    typed = [
        "sweep=learning_rate",
        *TINY,
        "data=folder",
        f"data.root={tmp_path / 'photos'}",
        f"output_dir={tmp_path}/runs",
    ]
    job = ["--slurm", "--local", "--gpus", "0", "--jobs", "2"]
    words = [sys.executable, "-m", "vision_peft", "sweep", *typed, *job]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = find_rows([tmp_path / "runs"])
    assert len(rows) == len(set(re.findall(r"recipe.lr=\S+", done.stdout))) > 2
    assert all("epoch 1/" in log.read_text() for log in (tmp_path / "runs" / "logs").iterdir())
    again = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"{len(rows)} of {len(rows)} runs are done already" in again.stdout


def test_what_a_job_asks_for_is_refused_where_there_is_no_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "sweep=learning_rate", "data=digits", "--minutes", "5", "--partition=gpu"])
    assert "--minutes, --partition: for jobs of Slurm, so give --slurm too" in capsys.readouterr().err
