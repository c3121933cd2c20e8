"""Partial fine-tuning: the last blocks and the final norm train (Partial-k of VPT, https://arxiv.org/abs/2203.12119)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vision_peft.tuning.block_method import check_blocks, choose_blocks
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.method import Method, positive
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norms import final_norms
from vision_peft.tuning.packed_linear import UNPACKED


@dataclass(frozen=True)
class PartialFineTune(Method):
    """The last ``blocks`` transformer blocks, or chosen ones, and the norm behind them train."""

    name: ClassVar[str] = "partial"
    title: ClassVar[str] = "Partial"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-4}

    blocks: int | str | tuple[int, ...] = 1  # how many, counted from the last, or which: "first 4", "2-5", [0, 3]

    def __post_init__(self) -> None:
        if isinstance(self.blocks, int):
            positive(blocks=self.blocks)
        else:
            check_blocks(self.blocks)

    @property
    def needs(self) -> tuple[Need, ...]:
        return *super().needs, UNPACKED

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        all_blocks = blocks(model)
        if isinstance(self.blocks, int) and self.blocks > len(all_blocks):
            raise ValueError(f"blocks={self.blocks}, but this backbone has {len(all_blocks)}: use FullFineTune")
        chosen = f"last {self.blocks}" if isinstance(self.blocks, int) else self.blocks
        for module in [*choose_blocks(chosen, all_blocks), *final_norms(model)]:
            module.requires_grad_(True)
