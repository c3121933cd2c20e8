"""The job scripts and `tools/submit.py`, executed as they stand, where Slurm's own commands only pretend."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from support.tiny_run import TINY

from vision_peft.results.find_rows import find_rows

SCRIPTS = ["single_node.sbatch", "multi_node.sbatch"]
# Slurm hands a batch script a signal and nothing else; srun hands it on to the tasks, and ends with their worst code.
FAKES = {
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        trap 'kill -TERM $tasks' TERM
        tasks=""
        for task in $(seq "$SLURM_NNODES"); do "$@" & tasks="$tasks $!"; done
        worst=0
        for task in $tasks; do
            while wait $task; code=$?; kill -0 $task 2>/dev/null; do :; done
            [ $code -gt $worst ] && worst=$code
        done
        exit $worst
    """,
    "scontrol": """
        if [ "$1" = show ]; then echo localhost; echo localhost; else echo "$@" >>scontrol.calls; fi
    """,
    "squeue": "cat squeue.state",
}
LONG = [*TINY, "recipe.epochs=100", "save_every=2", "output_dir=runs", "data=folder", "data.root=photos"]


@pytest.fixture
def site(repository: Path, tmp_path: Path) -> Path:
    """A folder to submit from, with a Slurm whose nodes are all this machine."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(repository / name)
    (tmp_path / "bin").mkdir()
    for name, text in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "squeue.state").write_text("RUNNING\n")
    for number in range(48):
        folder = tmp_path / "photos" / ("train", "val", "test")[number % 3] / ("red", "blue")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (number, 0, 255 * (number % 2))).save(folder / f"{number}.png")
    return tmp_path


def environment(site: Path, nodes: int) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{site / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": str(os.getpid() * 7 % 20000 + nodes),  # the port follows from it
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_NNODES": str(nodes),
        "SLURM_GPUS_ON_NODE": "2" if nodes == 1 else "1",
    }


def start(site: Path, script: str, *overrides: str, nodes: int = 1) -> subprocess.Popen[str]:
    words = ["bash", f"tools/slurm/{script}", *overrides]
    return subprocess.Popen(
        words,
        cwd=site,
        env=environment(site, nodes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_state(site: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not list(site.glob("runs/**/latest")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def child_of(parent: int) -> int:
    """Process id of the only child of a process."""
    (child,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if int(path.read_text().rpartition(")")[2].split()[1]) == parent
    )
    return child


@pytest.mark.parametrize("name", [*SCRIPTS, "requeue.sh"])
def test_scripts_are_bash(repository: Path, name: str) -> None:
    subprocess.run(["bash", "-n", repository / "tools" / "slurm" / name], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_ask_slurm_for_a_signal_and_for_requeues(repository: Path, name: str) -> None:
    lines = (repository / "tools" / "slurm" / name).read_text().splitlines()
    for wanted in ("--signal=B:USR1@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"):
        assert f"#SBATCH {wanted}" in lines


@pytest.mark.slow
@pytest.mark.parametrize(("script", "nodes"), [(SCRIPTS[0], 1), (SCRIPTS[1], 2)], ids=SCRIPTS)
def test_a_job_that_runs_out_of_time_goes_back_into_the_queue_and_resumes(site: Path, script: str, nodes: int) -> None:
    process = start(site, script, *LONG, nodes=nodes)
    wait_for_state(site, process)
    process.send_signal(signal.SIGUSR1)  # to the script alone, as --signal=B: does
    out, _ = process.communicate(timeout=200)
    job = environment(site, nodes)["SLURM_JOB_ID"]
    assert "the same command again resumes there" in out
    assert (site / "scontrol.calls").read_text() == f"requeue {job}\n", out
    assert not (site / f"requeue-{job}").exists()

    again = start(site, script, *LONG, nodes=nodes)
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    assert "resuming from update" in out
    assert (site / "scontrol.calls").read_text().count("requeue") == 1
    (row,) = find_rows([site / "runs"])
    assert (row.world_size, len(row.curve)) == (2, 100)


def test_a_mistake_ends_the_job_and_a_job_that_was_cancelled_stays_so(site: Path) -> None:
    process = start(site, SCRIPTS[0], "method=lroa")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "did you mean lora" in out
    (site / "bin" / "torchrun").write_text('#!/bin/bash\ntouch "${!##*=}"\nexit 1\n')  # stopped by scancel
    (site / "bin" / "torchrun").chmod(0o755)
    (site / "squeue.state").write_text("COMPLETING\n")
    assert start(site, SCRIPTS[0]).wait(timeout=60) == 1
    assert not (site / "scontrol.calls").exists()
    (site / "squeue.state").write_text("RUNNING\n")  # by max_time
    assert start(site, SCRIPTS[0]).wait(timeout=60) == 0
    assert (site / "scontrol.calls").read_text().startswith("requeue ")


@pytest.mark.slow
def test_a_submitted_training_saves_when_submitit_asks_and_resumes(repository: Path, site: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit, of the extra test")
    words = [sys.executable, str(repository / "tools" / "submit.py"), "--local", "--gpus", "0", *LONG]
    settings = {**environment(site, 1), "CUDA_VISIBLE_DEVICES": ""}
    with (site / "printed").open("w") as printed:  # a pipe would stay open as long as the job runs
        subprocess.run(words, cwd=site, env=settings, stdout=printed, timeout=200, check=True)
    _, job, log = (site / "printed").read_text().split()
    job, log = int(job.rstrip(":")), Path(log)
    deadline = time.monotonic() + 200
    while not list(site.glob("runs/**/latest")):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    os.kill(child_of(job), signal.SIGUSR2)
    while not list(site.glob("runs/**/result.json")):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    assert "stopped after update" in log.read_text()
    assert "resuming from update" in log.read_text()
    (row,) = find_rows([site / "runs"])
    assert len(row.curve) == 100


def test_what_cannot_be_submitted_is_one_line(repository: Path, site: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit, of the extra test")
    words = [sys.executable, str(repository / "tools" / "submit.py")]
    where = {"cwd": site, "capture_output": True, "text": True, "timeout": 200}
    done = subprocess.run([*words, "method=lroa"], **where)
    assert done.returncode == 2
    assert "did you mean lora" in done.stderr
    done = subprocess.run([*words, "method=lora"], **where, env={**os.environ, "PATH": ""})
    assert done.returncode == 2
    assert done.stderr == ("error: this machine has no srun: submit from a Slurm machine, or test with --local\n")
    assert not (site / "jobs").exists()
