"""LoRA (Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685).

A low-rank update beside frozen linear layers:

    y = W x + b + (α / r) · B A dropout(x)

``targets=("q", "v")`` is the paper's: one A, B pair per slice, also on timm's fused ``qkv``. ``targets=("qkv",)`` is
what NOAH and HF peft do on fused layers: one A shared by q, k and v. At r = 8 both have 294,912 parameters on ViT-B,
but they are different functions.

Source: microsoft/LoRA loralib/layers.py. A starts from kaiming_uniform(a=√5) as in the code (the paper says Gaussian),
B from zero. Deviation: every pair draws its own dropout mask.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.method import Method, one_of, positive, probability
from vision_peft.tuning.timm_blocks import blocks, is_fused, linears

TARGETS = ("q", "k", "v", "qkv", "proj", "fc1", "fc2")


class LowRank(nn.Module):
    """(α / r) · B A dropout(x) from ``(..., in)`` to ``(..., out)``."""

    def __init__(self, in_features: int, out_features: int, method: "LoRA") -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(method.rank, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, method.rank))
        self.dropout = nn.Dropout(method.dropout)
        self.scaling = method.alpha / method.rank
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.A), self.B) * self.scaling

    def dense(self) -> Tensor:
        """The update as a dense matrix (out, in)."""
        return self.B @ self.A * self.scaling


class LoRALinear(Graft):
    """A linear layer with one update."""

    lora: LowRank
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.lora(x)

    def fold(self) -> None:
        self.weight += self.lora.dense()


class LoRAQKV(Graft):
    """A fused qkv layer with an update of its own for each chosen slice."""

    lora: Any  # nn.ModuleDict of LowRank by slice name
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        slices = list(super().forward(x).chunk(3, dim=-1))
        for name, update in self.lora.items():
            slices["qkv".index(name)] = slices["qkv".index(name)] + update(x)
        return torch.cat(slices, dim=-1)

    def fold(self) -> None:
        slices = self.weight.chunk(3)
        for name, update in self.lora.items():
            slices["qkv".index(name)].add_(update.dense())


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank updates of chosen linear layers in every block; folds into the weights (``merge``)."""

    name: ClassVar[str] = "lora"

    rank: int = 8  # r
    alpha: float = 8  # α; the update is scaled by α / r
    dropout: float = 0.0  # rate on the input of A
    targets: tuple[str, ...] = ("q", "v")  # out of q, k, v, qkv, proj, fc1, fc2

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))  # a config hands over a list
        positive(rank=self.rank, alpha=self.alpha)
        probability(dropout=self.dropout)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must be distinct and at least one out of {TARGETS}; got {self.targets}")
        for target in self.targets:
            one_of("targets", target, TARGETS)
        if "qkv" in self.targets and set("qkv") & set(self.targets):
            raise ValueError(f"targets name qkv and single slices of it; got {self.targets}: take either")

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for block in blocks(model):
            slices = [t for t in self.targets if t in ("q", "k", "v") and is_fused(block.attn)]
            if slices:
                (qkv,) = linears(block, "qkv")
                dims = qkv.in_features, qkv.out_features // 3
                graft(qkv, LoRAQKV, lora=nn.ModuleDict({s: LowRank(*dims, self) for s in "qkv" if s in slices}))
            for target in self.targets:
                if target not in slices:
                    for linear in linears(block, target):
                        graft(linear, LoRALinear, lora=LowRank(linear.in_features, linear.out_features, self))
