"""The run folder: opened without harming what lies there, written to while training goes on."""

import contextlib
import json
import math
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf
from torch.utils.tensorboard.writer import SummaryWriter

from vision_peft.config.parse import NOT_PART_OF_A_RUN, Config, ConfigError, flatten, identity, parse_config, to_dict
from vision_peft.data import ImageDecodeError
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.distributed.processes import all_gather
from vision_peft.results.row import Row, read_row
from vision_peft.results.table import format_seconds
from vision_peft.runs.append_log import Journal
from vision_peft.runs.checkpoint import save_errors, truncate_lines
from vision_peft.runs.run_config import CONFIG, read_config

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

RESULT, METRICS, LOCK = "result.json", "metrics.jsonl", ".lock"
BAD_FILES = "bad_files.txt"


def find_finished_row(config: Config, folder: Path) -> Row | None:
    """The row of a run that needs no more work; None where there is something left to do.

    Raises:
        ValueError: another config's run lies in the folder; the differing keys are shown and nothing is touched.
    """
    if config.overwrite or not folder.exists():
        return None
    if (folder / CONFIG).exists():
        _check_same(config, folder)
    elif any(path.suffix != ".tmp" and path.name != LOCK for path in folder.iterdir()):
        raise ValueError(f"{folder} is there but has no {CONFIG}: move it away, or start over with overwrite=true")
    if not (folder / RESULT).exists():
        return None
    row = read_row(folder / RESULT)
    return row if row.top1 is not None or not config.read_test else None


def open_folder(config: Config, folder: Path) -> TextIO:
    """Make the run folder, emptied first with `overwrite=true`, and write the resolved config into it.

    Returns:
        The lock that keeps other processes out of the folder until it is closed.

    Raises:
        ValueError: another process trains in the folder; nothing was changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    if config.overwrite:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    if not (folder / CONFIG).exists():
        temporary = folder / f"{CONFIG}.tmp"
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))), encoding="utf-8")
        temporary.replace(folder / CONFIG)
    return lock


def _lock(folder: Path) -> TextIO:
    """Hold the run folder for this process, until the file is closed; ValueError where another process holds it."""
    file = (folder / LOCK).open("w")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(f"{folder} is being trained by another process: wait for it or stop it") from None
        except OSError:  # some network file systems have no locks
            pass
    return file


def _check_same(config: Config, folder: Path) -> None:
    raw = read_config(folder)
    try:
        theirs = flatten(identity(parse_config(raw)))
    except ConfigError:
        theirs = flatten({key: value for key, value in raw.items() if key not in NOT_PART_OF_A_RUN})
    ours = flatten(identity(config))
    differing = [key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {theirs.get(key)} there, {ours.get(key)} here" for key in differing[:10])
        raise ValueError(
            f"{folder} holds the run of another config ({shown}): nothing was changed; take another output_dir, or "
            "start over with overwrite=true"
        )


class Run:
    """An open run folder and what is written while training goes on: log.txt, metrics.jsonl, TensorBoard's events/.

    On a terminal the progress is one line that changes; elsewhere, and in log.txt, it is a plain line now and then.
    """

    def __init__(self, folder: Path, step: int = 0, lines: int = 0, stream: TextIO | None = None) -> None:
        self.folder = folder
        self.lines = lines  # of metrics.jsonl
        truncate_lines(folder / METRICS, lines)
        self._stream = stream or sys.stdout
        self._on_terminal = self._stream.isatty()
        self._log, self._metrics = Journal(folder / "log.txt"), Journal(folder / METRICS)
        self._events: SummaryWriter | None = SummaryWriter(
            str(folder / "events"), purge_step=step + 1 if step else None
        )
        self._hook, threading.excepthook = threading.excepthook, _hide_tensorboard_traceback
        self._width = 0
        self._last_plain = -math.inf
        self.bad_files = BadFiles(folder / BAD_FILES, self.say)

    def say(self, text: str) -> None:
        """Print a line and keep it in log.txt with the time."""
        self._clear()
        print(text, file=self._stream, flush=True)
        self._keep(text)

    def progress(self, text: str, plain: bool) -> None:
        """Show `text` as the line of a terminal that changes; elsewhere if `plain`, at most every two seconds."""
        plain = plain and time.monotonic() - self._last_plain > 2
        if plain:
            self._last_plain = time.monotonic()
            self._keep(text)
        if self._on_terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
            self._width = len(text)
        elif plain:
            print(text, file=self._stream, flush=True)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl and the numbers in it to TensorBoard under `kind/`."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self._metrics.add(json.dumps({"kind": kind, "step": step, **finite}) + "\n")
        self.lines += 1
        try:
            for name, value in values.items():
                if isinstance(value, int | float) and self._events is not None:
                    self._events.add_scalar(f"{kind}/{name}", value, step)
        except OSError as error:
            self._events = None
            self.say(f"warning: nothing more is written to {self.folder / 'events'}: {error}")

    def write_out(self) -> None:
        """Bring metrics.jsonl up to date, as a state that is saved now will expect it; SaveError if that fails."""
        with save_errors(self.folder / METRICS):
            self._metrics.write_out()

    def share_bad_files(self) -> None:
        """List what other processes could not decode as well; all of them call this."""
        for causes in all_gather(self.bad_files.causes):
            for path, cause in causes.items():
                self.bad_files.add(ImageDecodeError(path, cause), "in training the next image takes its place")

    def close(self) -> None:
        """Flush and close all files."""
        self._clear()
        if self._events is not None:
            with contextlib.suppress(OSError):  # a full disk; whoever notices it says so
                self._events.close()
        threading.excepthook = self._hook
        self._metrics.close()
        self._log.close()

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=self._stream, flush=True)
            self._width = 0

    def _keep(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._log.add("".join(f"{stamp}  {line}\n" for line in text.splitlines()))


def _hide_tensorboard_traceback(error: threading.ExceptHookArgs) -> None:
    """Spare the traceback of the thread in which TensorBoard writes, where its disk is full."""
    if not (issubclass(error.exc_type, OSError) and type(error.thread).__module__.startswith("tensorboard")):
        threading.__excepthook__(error)


class SilentRun(Run):
    """What the processes beside the main one have for a run: they write nothing and say nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, 0
        self.bad_files = BadFiles()

    def say(self, text: str) -> None: ...

    def progress(self, text: str, plain: bool) -> None: ...

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None: ...

    def write_out(self) -> None: ...

    def close(self) -> None: ...


def format_time_left(seconds_per_update: float, updates: int) -> str:
    """Words for the time that `updates` more will take."""
    return f"{format_seconds(seconds_per_update * updates)} left"
