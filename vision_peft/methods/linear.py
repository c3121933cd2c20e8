"""Linear probing: a frozen backbone under a trained head, the lower end of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.method import Method


@dataclass(frozen=True)
class LinearProbe(Method):
    """Train the head only. It bears about ten times the learning rate of the other methods (1e-2 with AdamW)."""

    name: ClassVar[str] = "linear"

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        """Nothing joins the backbone; the head trains under every method."""
