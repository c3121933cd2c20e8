"""Norm tuning: only the layer norms (and the head) train (for ViTs: https://arxiv.org/abs/2302.07937)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.method import one_of
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norms import final_norms, norm_layers


@dataclass(frozen=True)
class NormTuning(BlockMethod):
    """Scale and shift of every layer norm of the backbone train; 25 of them on ViT-B.

    ``norms="final"`` trains the one behind the last block alone (``norm``, or ``fc_norm`` after average pooling), which
    AdaptFormer's video code does beside its method.
    """

    name: ClassVar[str] = "norm_tuning"
    title: ClassVar[str] = "norm tuning"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-2}

    norms: str = "all"  # "all", or "final": the one behind the last block

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("norms", self.norms, ("all", "final"))
        if self.norms == "final" and self.blocks != "all":
            raise ValueError(f'norms="final" trains no norm of a block: it takes no blocks; got {self.blocks!r}')

    @property
    def needs(self) -> tuple[Need, ...]:
        return () if self.blocks == "all" else super().needs

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        norms = norm_layers(model) if self.norms == "all" else final_norms(model)
        for norm in self.chosen_modules(model).intersection(norms):
            norm.requires_grad_(True)
