"""Norm tuning: only the layer norms (and the head) train (for ViTs: https://arxiv.org/abs/2302.07937)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.method import Method
from vision_peft.tuning.norms import norm_layers


@dataclass(frozen=True)
class NormTuning(Method):
    """Scale and shift of every layer norm of the backbone train; 25 of them on ViT-B."""

    name: ClassVar[str] = "norm_tuning"

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for norm in norm_layers(model):
            norm.requires_grad_(True)
