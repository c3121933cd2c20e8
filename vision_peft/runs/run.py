"""A run while it is trained: what is printed, logged and saved, by rank 0 for all processes."""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

from vision_peft.config.parse import Config, to_dict
from vision_peft.data import ImageDecodeError
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.distributed.processes import all_gather, on_rank0
from vision_peft.distributed.stopping import Interrupted, check_marker, mark_requeue, starts_over, unmark_requeue
from vision_peft.runs.append_log import Journal
from vision_peft.runs.checkpoint import save_errors, truncate_lines
from vision_peft.runs.folder_lock import FolderLock
from vision_peft.runs.run_folder import open_folder
from vision_peft.runs.texts import LogFile, Terminal, Text
from vision_peft.runs.trackers import TRACKERS, Tracker

METRICS, BAD_FILES = "metrics.jsonl", "bad_files.txt"
PLAIN_EVERY_S = 2  # at most one plain line of progress in so many seconds
T = TypeVar("T")


class Run:
    """An open run folder, and what goes into it while training goes on: log.txt, metrics.jsonl, what trackers write.

    Every process holds one and calls it alike; that of rank 0 alone locks and writes the folder and prints. Use it as
    a context: the lock is released at its end.
    """

    def __init__(self, config: Config, folder: Path, stream: TextIO | None = None) -> None:
        self.folder, self.lines = folder, 0  # lines of metrics.jsonl
        self.bad_files = BadFiles()
        self._config, self._stream = config, stream or sys.stdout
        self._lock: FolderLock | None = None
        self._texts: list[Text] = []  # these three stay empty in the other processes
        self._metrics: list[Journal] = []
        self._trackers: list[Tracker] = []
        self._last_plain = -math.inf

    def __enter__(self) -> "Run":
        on_rank0(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        for output in (*self._texts[:1], *self._trackers, *self._metrics, *self._texts[1:]):
            output.close()
        if self._lock is not None:
            self._lock.release()

    def start(self, step: int = 0, lines: int = 0) -> None:
        """Go on after update `step`, when metrics.jsonl had so many `lines`; what was written later is dropped."""
        self.lines = lines
        on_rank0(lambda: self._start(step, lines))

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line and keep it in log.txt with the time; a terminal shows it in a `style`, warnings in yellow."""
        for output in self._texts:
            output.say(text, style or ("yellow" if text.startswith("warning: ") else None))

    def progress(self, text: str, plain: bool) -> None:
        """Show `text` as the line of a terminal that changes; elsewhere if `plain`, at most every two seconds."""
        plain = plain and time.monotonic() - self._last_plain > PLAIN_EVERY_S
        if plain:
            self._last_plain = time.monotonic()
        for output in self._texts:
            output.progress(text, plain)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, and hand the numbers in it to the trackers."""
        self.lines += 1
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        for file in self._metrics:
            file.add(json.dumps({"kind": kind, "step": step, **finite}) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        for tracker in list(self._trackers):
            try:
                tracker.record(kind, step, numbers)
            except OSError as error:
                self._trackers.remove(tracker)
                self.say(f"warning: {type(tracker).__name__} gets no more figures from {self.folder}: {error}")

    def flush(self) -> None:
        """Bring metrics.jsonl up to date, as a state that is saved now will expect it; SaveError if that fails."""
        self.save(METRICS, lambda _: [file.write_out() for file in self._metrics] and None)

    def save(self, name: str, write: Callable[[Path], T]) -> T:
        """Have rank 0 write `folder/name`; what `write` gave, or `SaveError` where it failed, in all processes."""

        def save() -> T:
            with save_errors(self.folder / name):
                return write(self.folder / name)

        return on_rank0(save)

    def share_bad_files(self) -> None:
        """List what other processes could not decode as well; all of them call this."""
        for causes in all_gather(self.bad_files.causes):
            for path, cause in causes.items():
                self.bad_files.add(ImageDecodeError(path, cause), "training uses the next image instead")

    def stop(self, why: Interrupted) -> None:
        """Say that the run stops on request, and leave the mark for a scheduler that is to start it again."""
        self.say(why.describe(self._config.overwrite))
        if why.wants_requeue and (problem := on_rank0(self._mark_requeue)):
            self.say(f"warning: the marker of a stopped run could not be written ({problem}): start it again yourself")

    def _mark_requeue(self) -> str | None:
        try:
            mark_requeue(self.folder, self._config.requeue_file)
        except (OSError, ValueError) as error:  # the state is saved, so that the run still ends as one that was stopped
            return str(error)
        return None

    def _open(self) -> None:
        check_marker(self._config.requeue_file)
        self._lock = open_folder(self._config, self.folder)

    def _start(self, step: int, lines: int) -> None:
        truncate_lines(self.folder / METRICS, lines)
        self._texts = [Terminal(self._stream), LogFile(self.folder / "log.txt")]
        self._metrics = [Journal(self.folder / METRICS)]
        self.bad_files = BadFiles(self.folder / BAD_FILES, self.say)
        for name in self._config.trackers:
            self._trackers.append(TRACKERS[name](self.folder, step, to_dict(self._config)))
        unmark_requeue(self.folder, self._config.requeue_file)
        if self._config.overwrite and not starts_over(self._config.overwrite):
            self.say("overwrite=true is left out: torchrun or Slurm has started this run again, which goes on")
