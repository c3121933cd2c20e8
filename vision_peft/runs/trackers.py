"""Where the figures of a run go beside metrics.jsonl: TensorBoard, Weights & Biases. Each is imported where it is used.

A tracker is resumed: a run that goes on from a saved state continues what it wrote, without what it wrote after that
state where the tracker can drop it.
"""

import contextlib
import functools
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EVENTS = "events"  # TensorBoard's folder inside the run folder
ENTITY_LETTERS = 16  # of the digest by which a run is known to Weights & Biases


class Tracker(ABC):
    """Takes the figures of a run as they come."""

    @abstractmethod
    def record(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Take `values` by name, of update `step`; OSError where they cannot be written."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not written yet."""


class TensorBoard(Tracker):
    """Writes `events/` in the run folder, from `step` on where the run resumes; opens it for the first figure."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        self._folder, self._step, self._hook = folder / EVENTS, step, threading.excepthook

    @functools.cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard.writer import SummaryWriter

        threading.excepthook = _hide_tensorboard_traceback
        return SummaryWriter(str(self._folder), purge_step=self._step + 1 if self._step else None)

    def record(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Write scalars `kind/name`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush the events."""
        if "_writer" in vars(self):
            with contextlib.suppress(OSError):  # a full disk; whoever notices it says so
                self._writer.close()
            threading.excepthook = self._hook


class WandB(Tracker):
    """Logs to Weights & Biases; WANDB_MODE, WANDB_PROJECT and the like act as ever.

    The id of the run there is a digest of the run folder's name, so that a resumed run continues the same one.
    """

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ImportError(
                "trackers=wandb needs wandb, which is not installed: pip install 'vision_peft[wandb]'"
            ) from None
        project = os.environ.get("WANDB_PROJECT", "vision_peft")
        about = {"id": wandb_id(folder), "name": folder.name, "dir": str(folder), "config": dict(config)}
        try:
            self._run = wandb.init(project=project, resume="allow", **about)
        except wandb.Error as error:  # no key, no network
            reason = " ".join(str(error).split())
            raise ValueError(f"trackers=wandb cannot start ({reason}): wandb login, or WANDB_MODE=offline") from error
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def record(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Log `kind/name` over the number of updates."""
        self._run.log({"update": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        """End the run there."""
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB}


def import_trackers(names: Iterable[str]) -> None:
    """Import now what the trackers of these names would import at the first figure."""
    if "tensorboard" in names:
        import torch.utils.tensorboard.writer  # noqa: F401


def wandb_id(folder: Path) -> str:
    """Return the id of a run at Weights & Biases: a function of the absolute path of its folder."""
    return hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:ENTITY_LETTERS]


def _hide_tensorboard_traceback(error: threading.ExceptHookArgs) -> None:
    """Spare the traceback of the thread in which TensorBoard writes, where its disk is full."""
    if not (issubclass(error.exc_type, OSError) and type(error.thread).__module__.startswith("tensorboard")):
        threading.__excepthook__(error)
