"""What travels through a training: what its phases share, how far it is, and when its state is saved."""

import dataclasses
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from vision_peft.config.parse import Config
from vision_peft.data import ImageDataset
from vision_peft.distributed.device import Compute
from vision_peft.distributed.parallel import all_finite
from vision_peft.distributed.processes import all_reduce_sum
from vision_peft.distributed.stopping import StopRequests, stop_decision
from vision_peft.printable import name_some
from vision_peft.runs.checkpoint import SaveError, save_state
from vision_peft.runs.provenance import describe_changes, find_changes, merge_starts
from vision_peft.runs.run import Run
from vision_peft.runs.state_schema import list_problems
from vision_peft.runs.train_state import TrainState
from vision_peft.tasks.task import Task

LONGEST_UNSAVED_SECONDS = 300
SHORTEST_BETWEEN_EPOCHS_SECONDS = 10  # an epoch on kept features takes milliseconds, a state that lasts takes longer
FORWARD_SHARE = 0.4  # of an update that is its forward pass, about
WAYS_OUT = "try a lower recipe.lr, recipe.clip_grad=1 or precision=fp32"
ADDED = ("start", "settings", "tried", "resumed_with", "total_seconds")  # entries that states of earlier versions lack
State = tuple[dict[str, Any], Path]  # the entries of a saved state, and its folder


class Diverged(FloatingPointError):
    """The loss, the gradient or a tuned tensor is not finite and will not be; all processes raise it at once."""


@dataclass
class Timing:
    """Wall-clock seconds of the updates that this process did."""

    updates: list[float] = field(default_factory=list)
    waited: float = 0.0  # of them, for the loader
    images: int = 0  # or clips that went through these updates, of all processes
    reused_features: bool = False  # computed once, so that an update is one of what is behind them alone
    evaluated: list[float] = field(default_factory=list)  # seconds an item, of each evaluation between epochs

    @property
    def step_seconds(self) -> float:
        """Median of an update; 0 before the first."""
        return statistics.median(self.updates[-200:]) if self.updates else 0.0

    def seconds_left(self, updates: int, items: int, batch_size: int) -> float:
        """Estimate what so many more updates, and evaluations of so many items in all, will take."""
        item = FORWARD_SHARE * self.step_seconds / batch_size
        return updates * self.step_seconds + items * (statistics.median(self.evaluated) if self.evaluated else item)

    def describe_first(self) -> str:
        """Say what the first update took, of which the second one has to tell what compilation was."""
        first, second = self.updates[:2]
        return f"the first update took {first:.1f} s, {max(first - second, 0):.1f} of them compilation"


@dataclass(frozen=True)
class Training:
    """What all phases of a training share."""

    config: Config
    compute: Compute
    run: Run
    splits: Mapping[str, ImageDataset]
    task: Task
    settings: Mapping[str, Any]  # how an image becomes the model's input, see `input_settings`
    command: str  # that starts this training again
    requests: StopRequests
    timing: Timing = field(default_factory=Timing)
    seconds_before: float = 0.0  # of earlier starts
    data_digest: str | None = None  # of what is read, see `DataRecord.digest`

    @property
    def total_seconds(self) -> float:
        """Seconds since the run began, as far as its starts were at work and left a state."""
        return self.seconds_before + time.monotonic() - self.requests.began

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return next(iter(self.splits.values())).classes


@dataclass
class Progress:
    """How far a run is; with the tensors, all that a state holds."""

    phase: int = 0
    step: int = 0  # updates done, over all phases
    epoch: int = 0  # epochs of this phase that are done
    update: int = 0  # updates done of the epoch that is not
    loss_sum: float = 0.0  # over those of these updates that were not skipped
    skipped: int = 0  # of these updates, with a non-finite loss or gradient
    bad_steps: int = 0  # updates skipped in a row, up to now
    seconds: float = 0.0  # of training and watching
    lines: int = 0  # of metrics.jsonl
    processes: str = ""  # that did the last updates: number and strategy
    best: dict[str, Any] | None = None  # the history entry of the chosen epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch, over all phases
    start: dict[str, Any] = field(default_factory=dict)  # what it was started with, see `runs.provenance`
    settings: dict[str, Any] = field(default_factory=dict)  # what makes the experiment, see `config.run_id`
    tried: dict[str, list[Any]] | None = None  # values that a search compared before
    resumed_with: list[dict[str, Any]] = field(default_factory=list)  # what was different after each resume
    total_seconds: float = 0.0  # of all starts, from building to the last save

    @classmethod
    def of(cls, state: State | None, phases: int, metric: str = "top1") -> "Progress":
        """Return how far the run was, of so many `phases` and with epochs chosen by `metric`, that `state` is of.

        Raises:
            ValueError: another version of this file wrote it, or an entry is not of its type.
        """
        if state is None:
            return cls()
        entries, path = state
        names = {entry.name for entry in dataclasses.fields(cls)}
        tensors = {"sharded"} if "sharded" in entries else {"tuned", "average", "moments"}
        found: dict[str, Any] = entries.get("progress", {})
        fits = isinstance(found, dict) and names - set(ADDED) <= found.keys() <= names
        if not fits or not {"scaler", "best", *tensors} <= entries.keys():
            raise ValueError(
                f"{path} is not a state as this version of vision_peft saves it: end the run with the version that "
                "began it, or start over with overwrite=true"
            )
        if problems := list_problems(entries, get_type_hints(cls), phases, metric):
            raise ValueError(f"{path} is not a state of a run: {name_some(problems, 5)}; remove it to go on without it")
        return cls(**found)

    def note_start(self, now: dict[str, Any], settings: dict[str, Any], tried: dict[str, list[Any]] | None) -> str:
        """Keep what the run is started with; of a run that is resumed, keep and describe what is different now."""
        self.tried = tried or self.tried
        if not self.start:
            self.start, self.settings = now, settings
            return ""
        before = merge_starts(self.start, self.resumed_with)
        changes = find_changes(before, now)
        if changes:
            self.resumed_with.append({"update": self.step, **changes})
        return describe_changes(before, changes)

    def count_epochs(self, config: Config) -> int:
        """Count the epochs of this phase: a second phase is as long as the first one turned out to be best."""
        return self.best["epoch"] if self.phase and self.best else config.recipe.epochs

    def end_update(self, loss: float, skipped: bool) -> None:
        """Count an update and its loss, or that it was skipped."""
        self.step, self.update = self.step + 1, self.update + 1
        if skipped:
            self.bad_steps, self.skipped = self.bad_steps + 1, self.skipped + 1
        else:
            self.bad_steps, self.loss_sum = 0, self.loss_sum + loss

    def end_epoch(self, entry: dict[str, Any]) -> None:
        """Count an epoch, of which the history keeps `entry`."""
        self.history.append(entry)
        self.epoch, self.update, self.loss_sum, self.skipped = self.epoch + 1, 0, 0.0, 0

    def start_phase(self, number: int) -> None:
        """Begin phase `number` at its first epoch."""
        self.phase, self.epoch = number, 0


@dataclass
class Saver:
    """Saves the state of a phase, and knows when the last one is too old."""

    training: Training
    progress: Progress
    train_state: TrainState
    scaler: torch.amp.GradScaler
    best: dict[str, Tensor]  # tuned tensors of the best epoch so far, whole and on the CPU; empty before there is one

    def __post_init__(self) -> None:
        self._seconds_before, self._started = self.progress.seconds, time.perf_counter()
        self._saved = time.monotonic()

    def is_late(self) -> bool:
        """Whether updates were done for so long that the state is to be saved within an epoch."""
        return not self.training.config.save_every and time.monotonic() - self._saved > LONGEST_UNSAVED_SECONDS

    def is_due_after_epoch(self) -> bool:
        """Whether the end of an epoch is a time to save."""
        return not self.training.config.save_every and time.monotonic() - self._saved > SHORTEST_BETWEEN_EPOCHS_SECONDS

    def is_due_after(self, step: int) -> bool:
        """Whether `save_every` asks for the state of update `step`."""
        every = self.training.config.save_every
        return bool(every) and step % (every or 1) == 0

    def end_epoch(self, is_last: bool) -> None:
        """Save where it is time to, and stop where that was asked for; all processes call it.

        Raises:
            Interrupted: what stops the training.
            Diverged, SaveError: as of `save`.
        """
        requests = self.training.requests
        due, *votes = all_reduce_sum([self.is_due_after_epoch(), *requests.votes()])
        stop = stop_decision(votes, self.progress.step)
        if stop or due or is_last:
            self.save()
        if stop:
            raise stop

    def count_seconds(self) -> None:
        """Note in the progress how long the phases have trained and watched."""
        self.progress.seconds = self._seconds_before + time.perf_counter() - self._started
        self.progress.total_seconds = self.training.total_seconds

    def save(self) -> None:
        """Write the state; all processes call it.

        Raises:
            Diverged: a tuned tensor is not finite.
            SaveError: it could not be written, and `on_save_error` says to stop then.
        """
        training, progress, state = self.training, self.progress, self.train_state
        config, run = training.config, training.run
        if not all_finite(state.tuned.values()):
            raise Diverged(f"tuned tensors are no longer finite after update {progress.step}: {WAYS_OUT}")
        self.count_seconds()
        progress.lines = run.lines
        entries = {
            "progress": dataclasses.asdict(progress),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
        }
        shards = None
        if training.compute.sharded:
            entries["sharded"], shards = state.sharded_state_dict()
        else:
            entries |= state.state_dict()
        try:
            run.flush()
            save_state(run.folder / "state", progress.step, entries, config.keep_states, shards)
        except SaveError as error:
            if config.on_save_error == "stop":
                raise
            run.say(f"warning: {error}; training goes on without it (on_save_error=warn)")
        self._saved = time.monotonic()
