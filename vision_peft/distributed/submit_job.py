"""A training as a job of Slurm, by submitit: one torchrun on each node, back into the queue at its time limit."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOPPED = "stopped with its state saved: submit the same command again (without overwrite=true)"


@dataclass(frozen=True)
class Resources:
    """What a job asks Slurm for."""

    nodes: int = 1
    gpus: int = 1  # and processes, on each node; 0: one process on its CPU
    cpus: int = 8  # cores for each process
    minutes: int = 480  # time limit, after which the job resumes
    partition: str | None = None
    local: bool = False  # run on this machine instead, in the background

    @property
    def processes(self) -> int:
        """Processes on each node."""
        return max(self.gpus, 1)


def _ignore_signal_of_submitit() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # which Slurm may send to all processes


class Training:
    """What submitit runs on every node: a torchrun with one process for each GPU.

    submitit asks for a checkpoint when time is nearly up and before a preemption: the first node's torchrun is told to
    stop, and its processes agree with all others on the update after which they save and end.
    """

    def __init__(self, processes: int, overrides: list[str], log: Path | None = None) -> None:
        self.processes, self.overrides, self.log = processes, overrides, log
        self.torchrun = 0  # its process id, once it runs

    def __call__(self) -> str:
        import submitit  # pyright: ignore[reportMissingImports]  # an extra

        job = submitit.JobEnvironment()
        marker = Path(job.paths.folder).absolute() / "requeue"
        if job.global_rank == 0:
            marker.unlink(missing_ok=True)
        endpoint = f"{job.hostnames[0]}:{20000 + int(job.job_id) % 20000}"
        meeting = [f"--rdzv_id={job.job_id}", "--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}"]
        size = [f"--nnodes={job.num_nodes}", f"--nproc_per_node={self.processes}"]
        start = [sys.executable, "-m", "torch.distributed.run", *size, *meeting]
        with self.log.open("ab") if self.log else contextlib.nullcontext() as log:
            process = subprocess.Popen(
                [*start, "-m", "vision_peft", "train", *self.overrides, f"requeue_file={marker}"],
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                preexec_fn=_ignore_signal_of_submitit,
            )
        self.torchrun = process.pid
        # not process.wait(): `checkpoint` interrupts it, and would wait in turn for the lock that it holds
        code = os.waitstatus_to_exitcode(os.waitpid(self.torchrun, 0)[1])
        self.torchrun = 0
        if code and marker.exists():
            return STOPPED
        if code and job.global_rank == 0:  # the others end with it
            raise RuntimeError(f"the training ended with exit code {code}: see its log")
        return "finished"

    def checkpoint(self) -> Any:
        """Stop the training with its state saved; what submitit shall run next goes on with it."""
        import submitit  # pyright: ignore[reportMissingImports]  # an extra

        if self.torchrun:
            os.kill(self.torchrun, signal.SIGTERM)
            os.waitpid(self.torchrun, 0)
        again = [word for word in self.overrides if word.partition("=")[0].lstrip("+") != "overwrite"]
        return submitit.helpers.DelayedSubmission(Training(self.processes, again, self.log))


def check_submission(resources: Resources) -> None:
    """Check that jobs can be submitted from here.

    Raises:
        ImportError: submitit is not installed.
        ValueError: no Slurm.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ImportError("submitit is not installed: pip install 'vision_peft[slurm]'")
    if not resources.local and not shutil.which("srun"):
        raise ValueError("this machine has no srun: submit from a Slurm machine, or test with --local")


def submit_training(overrides: list[str], resources: Resources, folder: Path, log: Path | None = None) -> Any:
    """Hand a training over to Slurm, or start it here.

    Args:
        overrides: of train, which are not checked here.
        resources: for the job, checked by `check_submission`.
        folder: of submitit's files, one folder a job.
        log: file that the output of the training is appended to; None: submitit's own.

    Returns:
        submitit's job, not waited for.
    """
    import submitit  # pyright: ignore[reportMissingImports]  # an extra

    cluster = "local" if resources.local else "slurm"
    executor = submitit.AutoExecutor(folder / "%j", cluster=cluster, slurm_max_num_timeout=1000)
    wanted: Mapping[str, Any] = {
        "name": "vision_peft",
        "nodes": resources.nodes,
        "tasks_per_node": 1,
        "gpus_per_node": resources.gpus,
        "cpus_per_task": resources.cpus * resources.processes,
        "timeout_min": resources.minutes,
        "slurm_partition": resources.partition,
        "slurm_signal_delay_s": 120,
    }
    executor.update_parameters(**{key: value for key, value in wanted.items() if value})
    return executor.submit(Training(resources.processes, overrides, log))
