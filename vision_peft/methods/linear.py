"""Linear probing: a frozen backbone under a trained head, the lower end of every comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.method import Method
from vision_peft.tuning.needs import Need


@dataclass(frozen=True)
class LinearProbe(Method):
    """Train the head only. On kept features it wants more epochs than the other methods, and bears a higher rate.

    Of an inflated video model the temporal embedding stays frozen, too: at zero, features know no order of frames.
    """

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "linear probe"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-2, "epochs": 100}

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    @property
    def starts_as_identity(self) -> bool:
        return True

    @property
    def changes_features(self) -> bool:
        return False

    def attach(self, model: nn.Module) -> None:
        """Nothing joins the backbone; the head trains under every method."""
