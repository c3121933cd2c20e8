"""Bi-AdaptFormer (Jie, Wang and Deng, ICCV 2023, https://arxiv.org/abs/2307.16867).

AdaptFormer's branch with weights of 1, 2 or 4 bits (``tuning/few_bit_linear.py``), without biases, on the tokens x
after attention:

    x ← x + drop_path(MLP(LN₂ x)) + s · W_up dropout(ReLU(W_down x)),  W of 2^bits values each

Training moves latent weights in floating point; an adapter file holds the packed codes and two numbers a matrix, on
ViT-B 73,920 bytes for h = 32 and 2,496 for h = 1. Codes cannot be 0: the start is not the pretrained function.

Source: JieShibo/PETL-ViT@026e4f1 binary_adapter/adaptformer.py, utils.py. W_down starts as ``nn.Linear``, W_up with
σ = 0.001, cut at ±0.002. Deviations: any width (768 there); a count of weights that does not fill its last byte keeps
it (there it loses the rest). Its s depends on the task (10 or 100, for instance), and its inputs are not normalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import widen
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import BlockGraft, width
from vision_peft.tuning.few_bit_linear import BITS, few_bit_pair, pack_all
from vision_peft.tuning.graft import graft
from vision_peft.tuning.method import one_of, positive, probability


class Branch(nn.Module):
    """s · W_up dropout(ReLU(W_down x)) on tokens (..., D)."""

    def __init__(self, dim: int, method: "BiAdaptFormer") -> None:
        super().__init__()
        self.down, self.up = few_bit_pair(dim, method.bottleneck, dim, method.bits, packed=method.packed)
        self.dropout = nn.Dropout(method.dropout)
        self.scale = method.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * widen(self.down(x), torch.relu, self.dropout, self.up.quantised())


class BiAdaptFormerBlock(BlockGraft):
    """The branch reads the residual stream after attention."""

    token_wise = True
    bi_adaptmlp: nn.Module

    def mlp_half(self, x: Tensor) -> Tensor:
        return super().mlp_half(x) + self.bi_adaptmlp(x)

    def bake(self) -> dict[str, Tensor | nn.Module | None]:
        return {"bi_adaptmlp": pack_all(self.bi_adaptmlp)}


@dataclass(frozen=True)
class BiAdaptFormer(BlockMethod):
    """AdaptFormer of 1, 2 or 4 bits a weight; what is saved is packed, and trains no further but by μ and σ.

    ``save_adapter(..., keep_reparametrization=True)`` stores the latent weights instead, to train on from.
    """

    name: ClassVar[str] = "bi_adaptformer"
    title: ClassVar[str] = "Bi-AdaptFormer"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    bottleneck: int = 32  # hidden channels h of the branch
    bits: int = 1  # of every weight: 1, 2 or 4
    scale: float = 1.0  # s
    dropout: float = 0.1  # rate between W_down and W_up
    packed: bool = field(default=False, kw_only=True)  # weights as a file holds them; false: latent ones, which train

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(bottleneck=self.bottleneck, scale=self.scale)
        one_of("bits", self.bits, BITS)
        probability(dropout=self.dropout)

    def baked(self) -> "BiAdaptFormer":
        return replace(self, packed=True)

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            graft(block, BiAdaptFormerBlock, bi_adaptmlp=Branch(width(block), self))
