"""Bi-LoRA (Jie, Wang and Deng, ICCV 2023, https://arxiv.org/abs/2307.16867).

LoRA of q and v with weights of 1, 2 or 4 bits (``tuning/few_bit_linear.py``), on the input n of attention's
projection:

    q ← W_q n + s · B_q dropout(A_q n),  v likewise,  A and B of 2^bits values each

Training moves latent weights in floating point; an adapter file holds the packed codes and two numbers a matrix, on
ViT-B 147,840 bytes for r = 32 and 4,992 for r = 1. Codes cannot be 0: the start is not the pretrained function. It
folds into the weights (``merge``) in either form.

Source: JieShibo/PETL-ViT@026e4f1 binary_adapter/lora.py, utils.py. A starts as ``nn.Linear``, B with σ = 0.001, cut
at ±0.002; there is no α. Deviations: those of ``bi_adaptformer``; q and v may be layers of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import is_fused, linears, rows_by_head
from vision_peft.tuning.few_bit_linear import BITS, few_bit_pair, pack_all
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.method import one_of, positive, probability
from vision_peft.tuning.qkv_rows import join_rows, split_rows


class Update(nn.Module):
    """s · B dropout(A n) of tokens (..., in)."""

    def __init__(self, in_features: int, out_features: int, method: "BiLoRA") -> None:
        super().__init__()
        self.down, self.up = few_bit_pair(in_features, method.rank, out_features, method.bits, packed=method.packed)
        self.dropout = nn.Dropout(method.dropout)
        self.scale = method.scale

    def forward(self, n: Tensor) -> Tensor:
        return self.scale * self.up(self.dropout(self.down(n)))

    def dense(self) -> Tensor:
        """s · B A as a dense matrix (out, in)."""
        return self.scale * self.up.quantised() @ self.down.quantised()


class BiLoRAQKV(Graft):
    """A fused qkv layer with updates of its q and v."""

    token_wise = True
    bi_lora: Any  # nn.ModuleDict of Update by slice name
    bi_lora_heads: int | None  # see ``qkv_rows``
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = split_rows(super().forward(x), self.bi_lora_heads, -1)
        return join_rows([q + self.bi_lora["q"](x), k, v + self.bi_lora["v"](x)], self.bi_lora_heads, -1)

    def fold(self) -> None:
        q, v = (self.bi_lora[name].dense() for name in "qv")
        self.weight += join_rows([q, torch.zeros_like(q), v], self.bi_lora_heads)

    def bake(self) -> dict[str, Tensor | nn.Module | None]:
        return {"bi_lora": pack_all(self.bi_lora)}


class BiLoRALinear(Graft):
    """A layer for queries or values with its update."""

    token_wise = True
    bi_lora: Update
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.bi_lora(x) + super().forward(x)

    def fold(self) -> None:
        self.weight += self.bi_lora.dense()

    def bake(self) -> dict[str, Tensor | nn.Module | None]:
        return {"bi_lora": pack_all(self.bi_lora)}


@dataclass(frozen=True)
class BiLoRA(BlockMethod):
    """LoRA of 1, 2 or 4 bits a weight; what is saved is packed, and trains no further but by μ and σ.

    ``save_adapter(..., keep_reparametrization=True)`` stores the latent weights instead, to train on from.
    """

    name: ClassVar[str] = "bi_lora"
    title: ClassVar[str] = "Bi-LoRA"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    rank: int = 32  # r
    bits: int = 1  # of every weight: 1, 2 or 4
    scale: float = 1.0  # s; there is no alpha
    dropout: float = 0.1  # rate between A and B
    packed: bool = field(default=False, kw_only=True)  # weights as a file holds them; false: latent ones, which train

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rank=self.rank, scale=self.scale)
        one_of("bits", self.bits, BITS)
        probability(dropout=self.dropout)

    def baked(self) -> "BiLoRA":
        return replace(self, packed=True)

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            if is_fused(block):
                for qkv in linears(block, "qkv"):  # of every branch
                    size = qkv.in_features, qkv.out_features // 3
                    updates = nn.ModuleDict({name: Update(*size, self) for name in "qv"})
                    graft(qkv, BiLoRAQKV, bi_lora=updates, bi_lora_heads=rows_by_head(block))
            else:
                for layer in (*linears(block, "q"), *linears(block, "v")):
                    graft(layer, BiLoRALinear, bi_lora=Update(layer.in_features, layer.out_features, self))
