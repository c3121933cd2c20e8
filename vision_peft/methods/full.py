"""Full fine-tuning: every parameter trains, the other end of every comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.method import Method
from vision_peft.tuning.needs import Need
from vision_peft.tuning.packed_linear import UNPACKED
from vision_peft.tuning.record import backbone_parameters


@dataclass(frozen=True)
class FullFineTune(Method):
    """Train the whole backbone. It wants about a hundredth of the learning rate of the other methods."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "full fine-tuning"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-5}

    @property
    def needs(self) -> tuple[Need, ...]:
        return (UNPACKED,)

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for _, parameter in backbone_parameters(model):
            parameter.requires_grad_(True)
