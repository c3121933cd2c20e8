"""Requests to stop, from signals and a time limit, that all processes of a training heed at the same update."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vision_peft.safe_files import read_file, write_file

FROM_KEYBOARD = [signal.SIGINT]
FROM_SCHEDULER = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
SIGNALS = [*FROM_KEYBOARD, *FROM_SCHEDULER]
SAME_PRESS_S = 1.0  # Ctrl-C reaches a process of torchrun twice, from the terminal and from torchrun
REQUEUE_FILE = "REQUEUE"  # in the run folder: its training was stopped from outside and wants to go on


class Interrupted(Exception):
    """Training stopped on request after its state was saved; `signal` is the number, None where time was up."""

    def __init__(self, number: int | None, step: int) -> None:
        self.signal = number
        why = "max_time is over: " if number is None else ""
        self._what = f"{why}stopped after update {step}; its state is saved"
        super().__init__(self.describe())

    def describe(self, overwrite: bool = False) -> str:
        """Say what happened and which command goes on; `overwrite`: the one that was stopped says to start over."""
        return f"{self._what}: the same command {'without overwrite=true' if overwrite else 'again'} resumes there"

    @property
    def wants_requeue(self) -> bool:
        """Whether it was stopped by a scheduler or its time limit, not by the person at the keyboard."""
        return self.signal != signal.SIGINT


class StoppedBefore(Interrupted):
    """torchrun started the processes again that had stopped on request."""

    def __init__(self, folder: Path) -> None:
        self.signal = None
        Exception.__init__(self, f"{folder} was stopped on request: processes that torchrun restarts end as well")


class StopRequests:
    """What this process was asked, as numbers that can be summed over all processes.

    Args:
        max_time: minutes from now, the start of the run, after which it is to stop; None: never.
    """

    def __init__(self, max_time: float | None) -> None:
        self.began = time.monotonic()
        self._deadline = None if max_time is None else self.began + 60 * max_time
        self._numbers: list[int] = []
        self._first = 0.0

    def votes(self) -> list[float]:
        """1 or 0 for each of SIGNALS, then for the time limit."""
        up = self._deadline is not None and time.monotonic() > self._deadline
        return [*(float(number in self._numbers) for number in SIGNALS), float(up)]

    def note(self, number: int, _: Any = None) -> None:
        """Handle a signal; Ctrl-C a second time stops at once."""
        if self._numbers and number == signal.SIGINT and time.monotonic() - self._first > SAME_PRESS_S:
            raise KeyboardInterrupt
        if not self._numbers:
            self._first = time.monotonic()
        self._numbers.append(number)


def stop_decision(votes: Sequence[float], step: int) -> Interrupted | None:
    """Decide by the summed `votes` of all processes."""
    for number, vote in zip([*SIGNALS, None], votes, strict=True):
        if vote:
            return Interrupted(number, step)
    return None


@contextlib.contextmanager
def catch_signals(requests: StopRequests, numbers: Iterable[int]) -> Iterator[None]:
    """Inside, the signals `numbers` are noted in `requests`."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, requests.note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def mark_requeue(folder: Path, file: str | None) -> None:
    """Leave the marker by which a job script knows that the run wants to go on; in it, the id of this torchrun."""
    write_file(_marker(folder, file), os.environ.get("TORCHELASTIC_RUN_ID", ""))


def check_marker(file: str | None) -> None:
    """Check before training that the marker can be written where it was asked for.

    Raises:
        ValueError: it has no folder, or something else lies in its place.
    """
    if file is None:
        return
    path = Path(file)
    if not path.parent.is_dir():
        raise ValueError(f"requeue_file={file}: {path.parent} is not a folder: make it, or name a file in one")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        what = "is a folder: name a file in it" if path.is_dir() else "cannot be written: name a file in another folder"
        raise ValueError(f"requeue_file={file} {what}")


def unmark_requeue(folder: Path, file: str | None) -> None:
    """Remove the marker of an earlier stop."""
    _marker(folder, file).unlink(missing_ok=True)


def is_restart_after_stop(folder: Path, file: str | None) -> bool:
    """Whether torchrun --max-restarts, which knows no code but 0, started this process after a stop on request."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or not _marker(folder, file).is_file():
        return False
    return read_file(_marker(folder, file), 1000).decode() == os.environ.get("TORCHELASTIC_RUN_ID", "")


def is_started_again() -> bool:
    """Whether torchrun or Slurm started this process once more, with the words of the first start."""
    counts = (os.environ.get(name, "") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.strip("0") for count in counts)


def starts_over(overwrite: bool) -> bool:
    """Whether what is there is to be deleted: `overwrite=true` says it for the first start, not for those after it."""
    return overwrite and not is_started_again()


def _marker(folder: Path, file: str | None) -> Path:
    return folder / REQUEUE_FILE if file is None else Path(file)
