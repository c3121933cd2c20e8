"""tools/train.py as a process of its own, or as the processes of torchrun, which tests watch and harm from outside."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vision_peft.runs.checkpoint import newest_state

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "tools" / "train.py"
PATIENCE_S = 240  # for anything that a process shall do: a start takes seconds, minutes on a machine that is busy
MARK = "FAULTS_RUN"  # in the environment of every process of a run, its loaders' among them


class Running:
    """A started run; what it prints and writes is read while it goes on."""

    def __init__(self, output_dir: Path, words: list[str], environment: Mapping[str, str]) -> None:
        self.output_dir, self._name = output_dir, uuid.uuid4().hex
        output_dir.mkdir(parents=True, exist_ok=True)
        self._printed, self._text = Path(tempfile.mkdtemp()) / "printed.txt", ""  # elsewhere: the disk may be full
        marked = {**os.environ, "OMP_NUM_THREADS": "1", **environment, MARK: self._name}
        with self._printed.open("w") as printed:
            self.process = subprocess.Popen(
                words, cwd=output_dir.parent, env=marked, stdout=printed, stderr=subprocess.STDOUT
            )

    def text(self) -> str:
        """All that was printed up to now."""
        return self._text or self._printed.read_text(encoding="utf-8", errors="replace")

    def has_begun(self) -> bool:
        """Whether it has opened its run folder and is about to train."""
        return "\nfolder    " in self.text()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return run_folder(self.output_dir)

    def step(self) -> int:
        """The last update that metrics.jsonl tells; 0 before the first."""
        return last_step(self.output_dir) if self.has_begun() else 0

    def until(self, true: Callable[[], Any], poll_s: float = 0.005) -> None:
        """Wait for `true`; AssertionError with what was printed if the run ends before, or never gets there."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert self.process.poll() is None, f"the run ended with {self.process.returncode}:\n{self.text()}"
            assert time.monotonic() < end, f"waited {PATIENCE_S} s in vain:\n{self.text()}"
            time.sleep(poll_s)

    def until_step(self, step: int) -> None:
        """Wait until metrics.jsonl tells update `step`."""
        self.until(lambda: self.step() >= step)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.text()}") from None

    def processes(self) -> dict[int, dict[str, str]]:
        """All living processes of this run: environment by pid."""
        found = {}
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                environment = dict(
                    entry.split("=", 1)
                    for entry in (path / "environ").read_bytes().decode(errors="replace").split("\0")
                    if "=" in entry
                )
                if environment.get(MARK) == self._name:
                    found[int(path.name)] = environment
        return found

    def rank(self, rank: int) -> int:
        """Pid of the training process with this rank."""
        of_rank = [pid for pid, environment in self.processes().items() if environment.get("RANK") == str(rank)]
        return next(pid for pid in of_rank if _parent(pid) == self.process.pid)

    def loaders(self) -> list[int]:
        """Pids of the processes that load images for a run of one process."""
        return [pid for pid in self.processes() if _parent(pid) == self.process.pid]

    def close(self) -> None:
        """Kill what is left of it."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self._text = self.text() or "it printed nothing"
        shutil.rmtree(self._printed.parent)


@contextlib.contextmanager
def started(
    output_dir: Path,
    *overrides: str,
    processes: int = 1,
    restarts: int = 0,
    script: Path = TRAIN,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """A run of `script` in `processes`, of torchrun if there are several, of which nothing is left afterwards."""
    launcher = [sys.executable]
    if processes > 1:  # --standalone: a free port, tests run side by side
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher += [f"--max-restarts={restarts}"]
    running = Running(output_dir, [*launcher, str(script), *overrides, f"output_dir={output_dir}"], environment or {})
    try:
        yield running
    finally:
        running.close()


def finish(output_dir: Path, *overrides: str, **how: Any) -> str:
    """Run to the end; what was printed."""
    with started(output_dir, *overrides, **how) as run:
        assert run.end() == 0, run.text()
        return run.text()


def run_folder(output_dir: Path) -> Path:
    """The one run folder below `output_dir`."""
    (config,) = output_dir.glob("*/*/*/*/config.yaml")
    return config.parent


def last_step(output_dir: Path) -> int:
    """The last update that the metrics.jsonl below `output_dir` tells whole."""
    lines = (run_folder(output_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return next((json.loads(line)["step"] for line in reversed(lines) if line.endswith("\n")), 0)


def saved_step(output_dir: Path, scratch: Path) -> int:
    """The update of the newest state that loads, 0 without one; read from a copy, nothing is cleaned up.

    A state that was given its name must never be damaged, which would be a warning here.
    """
    if not (run_folder(output_dir) / "state").is_dir():
        return 0
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(run_folder(output_dir) / "state", scratch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = newest_state(scratch)
    return 0 if state is None else state[0]["progress"]["step"]


def resumed_at(text: str) -> int:
    """The update after which a run said it goes on; 0 where it began anew."""
    return int(text.split("resuming from update ")[1].split()[0]) if "resuming from update" in text else 0


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return -1
