"""The trainings of a sweep at work: a process of this machine each, or a job of Slurm each."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from vision_peft.data.loading.cached_images import count_cores
from vision_peft.distributed.submit_job import Resources, submit_training


class Work(Protocol):
    """What there is to do."""

    @property
    def words(self) -> list[str]:
        """Overrides of train."""
        ...

    @property
    def log(self) -> Path:
        """The file that the output goes into."""
        ...


class Job(Protocol):
    """A training that was started."""

    def find_end(self) -> str | None:
        """Say how it ended; None: it goes on."""
        ...

    def has_passed(self) -> bool:
        """Whether it ended as it should; asked after `find_end` has said how."""
        ...

    def stop(self) -> str | None:
        """Have it save its state and end, or say why it goes on."""
        ...


StartJob = Callable[[Work, int, int], Job]  # work, slot, slots
TRAIN = (sys.executable, "-m", "vision_peft", "train")


class LocalJob:
    """A process of this machine."""

    def __init__(self, work: Work, slot: int, jobs: int, command: Sequence[str] = TRAIN) -> None:
        """Start it with its share of the machine; the overrides come behind the command."""
        self._log: IO[bytes] = work.log.open("ab")
        self._process = subprocess.Popen(
            [*command, *work.words],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | choose_share(slot, jobs),
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )

    def find_end(self) -> str | None:
        """Return the exit code in words, once there is one."""
        if self._process.poll() is None:
            return None
        self._log.close()
        return f"exit code {self._process.returncode}"

    def has_passed(self) -> bool:
        """Whether the exit code is 0."""
        return self._process.returncode == 0

    def stop(self) -> None:
        """Have the training save its state and end."""
        self._process.terminate()
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()
        self._log.close()


class SubmittedJob:
    """A job of Slurm, which resumes after its time limit and does not end with this process."""

    def __init__(self, work: Work, slot: int, jobs: int, resources: Resources, folder: Path) -> None:
        """Submit it; `folder` takes submitit's files."""
        self._job: Any = submit_training(work.words, resources, folder, work.log.absolute())

    def find_end(self) -> str | None:
        """Return the state that Slurm gives, once the job has ended."""
        return f"job {self._job.job_id} {self._job.state}" if self._job.done() else None

    def has_passed(self) -> bool:
        """Whether the job ended without an error."""
        return self._job.exception() is None

    def stop(self) -> str:
        """Leave the job where it is."""
        return f"job {self._job.job_id} goes on"


def choose_share(slot: int, jobs: int) -> dict[str, str]:
    """Return the environment of the process in a slot: its share of the cores and one of several GPUs."""
    share: dict[str, str] = {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(count_cores() // jobs, 1))
    if jobs > 1 and len(devices := list_gpus()) > 1:
        share["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return share


def list_gpus() -> list[str]:
    """List the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [word.strip() for word in given.split(",") if word.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
