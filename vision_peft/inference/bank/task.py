"""What a bank tells of a task, and of an answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.printable import printable

LONGEST_NAME = 100  # letters


@dataclass(frozen=True)
class BankTask:
    """A task of a bank, as ``Bank.add`` returns it.

    Args:
        name: under which it is asked for.
        folder: of its adapter.
        info: what the adapter says of itself: methods, classes, input.
        version: counts the adapters that were ever added to the bank; a replaced task gets a new one.
        bytes: of its own tensors in memory while it is loaded.
        error: ‖w - q‖ / ‖w‖ over its tensors w that are stored as one-bit q; 0 without.
    """

    name: str
    folder: Path
    info: AdapterInfo
    version: int
    bytes: int
    error: float

    @property
    def methods(self) -> list[str]:
        """Names of the methods of its adapter, in attach order."""
        return [entry["name"] for entry in self.info.methods]


@dataclass(frozen=True)
class Answer:
    """The logits (classes) of one image, and the task as it was when they were computed."""

    task: BankTask
    logits: Tensor


class UnknownTask(KeyError):
    """A task that a bank does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


def check_name(name: Any) -> None:
    """Raise ValueError where ``name`` could not be shown, or is too long."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ValueError(f"a task's name is 1 to {LONGEST_NAME} printable letters; got {printable(repr(name))}")
