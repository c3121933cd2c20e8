"""BitFit: only additive biases (and the head) train (Ben Zaken et al., ACL 2022, https://arxiv.org/abs/2106.10199).

Biases of linear layers, convolutions and norms; relative position tables are added to attention logits, not to
features, and stay frozen. BEiT's and EVA's separate q and v biases count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.needs import Need
from vision_peft.tuning.record import backbone_parameters


@dataclass(frozen=True)
class BitFit(BlockMethod):
    """Every additive bias of the backbone trains, or of some ``blocks``."""

    name: ClassVar[str] = "bitfit"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    @property
    def needs(self) -> tuple[Need, ...]:
        return () if self.blocks == "all" else super().needs

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        chosen = self.chosen_modules(model)
        biases = [
            parameter
            for name, parameter in backbone_parameters(model)
            if name.endswith("bias") and model.get_submodule(name.rpartition(".")[0]) in chosen
        ]
        if not biases:
            raise ValueError(f"this {type(model).__name__} has no biases to train")
        for bias in biases:
            bias.requires_grad_(True)
