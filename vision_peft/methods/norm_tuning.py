"""Norm tuning: only the layer norms (and the head) train (for ViTs: https://arxiv.org/abs/2302.07937)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.method import Method, one_of
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norms import final_norms, norm_layers


@dataclass(frozen=True)
class NormTuning(Method):
    """Scale and shift of every layer norm of the backbone train; 25 of them on ViT-B.

    ``norms="final"`` trains the one behind the last block alone (``norm``, or ``fc_norm`` after average pooling), which
    AdaptFormer's video code does beside its method.
    """

    name: ClassVar[str] = "norm_tuning"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 4e-3}

    norms: str = "all"  # "all", or "final": the one behind the last block

    def __post_init__(self) -> None:
        one_of("norms", self.norms, ("all", "final"))

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for norm in norm_layers(model) if self.norms == "all" else final_norms(model):
            norm.requires_grad_(True)
