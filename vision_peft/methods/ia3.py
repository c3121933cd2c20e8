"""IA3 (Liu et al., NeurIPS 2022, https://arxiv.org/abs/2205.05638).

One learned scale, which starts at 1, per channel of keys, values and the hidden layer of the MLP in every block:

    softmax(Q (l_k ⊙ K)ᵀ / √d) (l_v ⊙ V),  W₂ (l_ff ⊙ γ(W₁ x))

K and V hold their biases. l_ff acts behind the activation γ (of a SwiGLU: on the gated product), that is on the input
of the MLP's second layer, and so folds into the columns of W₂; l_k and l_v fold into the rows that make K and V.

Source: r-three/t-few@114dece src/models/lora.py, configs/ia3.json (there l_ff scales the second factor of T5's gated
product, which is the same function). Deviations: where keys are normalised or rotated, l_k acts before that, on what
their layer gives, so that it folds; where a norm stands in front of W₂ (EVA-02 base), l_ff acts behind it, for the same
reason. Keys and values that several query heads share have one scale for all of them.

The fused layer of BEiT, EVA and Swin v2 has its biases beside it. They are scaled too, but what another method does to
the layer's output acts before they are added: ``merge`` asks that IA3 is the last one attached to such a layer. Swin v2
normalises keys per head, so that there l_k weighs the channels of a head against each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import is_fused, linears, rows_by_head, separate_biases
from vision_peft.tuning.graft import Graft, graft, kinds
from vision_peft.tuning.method import some_of
from vision_peft.tuning.qkv_rows import join_rows, split_rows

TARGETS = ("k", "v", "fc2")


class IA3Output(Graft):
    """l ⊙ (W x + b): the output (..., out) of a layer that makes keys or values."""

    token_wise = True
    ia3_scale: nn.Parameter
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.ia3_scale

    def fold(self) -> None:
        self.weight *= self.ia3_scale.unsqueeze(1)
        if self.bias is not None:
            self.bias *= self.ia3_scale


class IA3Input(Graft):
    """W (l ⊙ x) + b: the input (..., in) of the MLP's second layer."""

    token_wise = True
    ia3_scale: nn.Parameter
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.ia3_scale)

    def fold(self) -> None:
        self.weight *= self.ia3_scale


class IA3QKV(Graft):
    """The slices of a fused qkv layer (..., 3 D) that are keys or values, each with its scale."""

    token_wise = True
    ia3_scale: Any  # nn.ParameterDict by slice name
    ia3_heads: int | None  # see ``rows_by_head``
    ia3_block: tuple[Any]  # the block, in a tuple so as to be no child of its own layer
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        slices = split_rows(super().forward(x), self.ia3_heads, -1)
        biases = separate_biases(self.ia3_block[0])
        for name, scale in self.ia3_scale.items():
            i = "qkv".index(name)
            slices[i] = slices[i] * scale
            if biases:  # timm adds b behind this layer: l ⊙ W x + (l - 1) ⊙ b + b = l ⊙ (W x + b)
                slices[i] = slices[i] + (scale - 1) * biases[name]
        return join_rows(slices, self.ia3_heads, -1)

    def fold(self) -> None:
        biases = separate_biases(self.ia3_block[0])
        outer = kinds(self)[kinds(self).index(IA3QKV) + 1 :]
        if biases and outer:
            raise ValueError(
                f"{outer[0].__name__} changes the scaled output of a layer whose bias comes after it: attach IA3 last"
            )
        factors = [torch.ones(len(self.weight) // 3).to(self.weight) for _ in "qkv"]
        for name, scale in self.ia3_scale.items():
            factors["qkv".index(name)] = scale
            if biases:
                biases[name].mul_(scale)
        rows = join_rows(factors, self.ia3_heads)
        self.weight *= rows.unsqueeze(1)
        if not biases and self.bias is not None:
            self.bias *= rows


@dataclass(frozen=True)
class IA3(BlockMethod):
    """One scale per channel of keys, values and the MLP's hidden layer; folds into the weights (``merge``)."""

    name: ClassVar[str] = "ia3"
    title: ClassVar[str] = "(IA)³"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-2}

    targets: tuple[str, ...] = TARGETS  # out of k, v and fc2 (what it reads: the MLP's hidden channels)

    def __post_init__(self) -> None:
        super().__post_init__()
        some_of("targets", self.targets, TARGETS)

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            slices = [target for target in self.targets if target != "fc2" and is_fused(block)]
            if slices:
                for qkv in linears(block, "qkv"):
                    scales = nn.ParameterDict({name: _ones(qkv.out_features // 3) for name in slices})
                    graft(qkv, IA3QKV, ia3_scale=scales, ia3_block=(block,), ia3_heads=rows_by_head(block))
            for target in self.targets:
                if target not in slices:
                    for layer in linears(block, target):
                        if target == "fc2":
                            graft(layer, IA3Input, ia3_scale=_ones(layer.in_features))
                        else:
                            graft(layer, IA3Output, ia3_scale=_ones(layer.out_features))


def _ones(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(channels))
