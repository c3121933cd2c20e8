"""AdaptFormer (Chen et al., NeurIPS 2022, https://arxiv.org/abs/2205.13535).

A bottleneck beside the frozen MLP of every block, on the tokens x after attention:

    x ← x + drop_path(MLP(LN₂ x)) + s · W_up dropout(ReLU(W_down x))

Source: ShoufaChen/AdaptFormer@6967d67 models/adapter.py, vit_image.py, vit_video.py.
Deviations: none in the default on images; the width follows the backbone (the official file fixes it to 768).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import narrow_linear, widen
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import SINGLE_BRANCHES, BlockGraft, mlp_input, output_seats, width
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.method import one_of, positive, probability
from vision_peft.tuning.needs import Need


class AdaptMLP(nn.Module):
    """s · W_up dropout(ReLU(W_down norm(x))) on tokens ``(..., D)``."""

    def __init__(self, dim: int, method: "AdaptFormer") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim) if method.input == "own_norm" else nn.Identity()
        self.down_proj = nn.Linear(dim, method.bottleneck)
        self.dropout = nn.Dropout(method.dropout)
        self.up_proj = nn.Linear(method.bottleneck, dim)
        self.scale = nn.Parameter(torch.ones(1)) if method.scale == "learnable" else float(method.scale)
        if method.init == "lora":  # adapter.py: the branch starts as zero
            nn.init.kaiming_uniform_(self.down_proj.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up_proj.weight)
        else:  # vit_video.py: a later self.apply overwrites both weights
            nn.init.trunc_normal_(self.down_proj.weight, std=0.02)
            nn.init.trunc_normal_(self.up_proj.weight, std=0.02)
        nn.init.zeros_(self.down_proj.bias)
        nn.init.zeros_(self.up_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = narrow_linear(self.norm(x), self.down_proj.weight, self.down_proj.bias)
        scale = self.scale if isinstance(self.scale, Tensor) else None
        y = widen(hidden, torch.relu, self.dropout, self.up_proj.weight, self.up_proj.bias, scale)
        return y if scale is not None else self.scale * y


class AdaptFormerBlock(BlockGraft):
    """The branch reads the residual stream after attention, or the block's own LN₂ of it."""

    token_wise = True
    adaptmlp: AdaptMLP
    block_norm: bool

    def mlp_half(self, x: Tensor) -> Tensor:
        return super().mlp_half(x) + self.adaptmlp(mlp_input(self, x) if self.block_norm else x)


class AdaptFormerSequential(Graft):
    """The branch reads the output m of the MLP (drop-path included): m + s · A(m)."""

    token_wise = True
    adaptmlp: AdaptMLP

    def forward(self, x: Tensor) -> Tensor:
        m = super().forward(x)
        return m + self.adaptmlp(m)


@dataclass(frozen=True)
class AdaptFormer(BlockMethod):
    """AdaptMLP in every block.

    The default is the released image code: the branch reads the residual stream as it is. We recommend it because the
    published image results were made with it and it starts from the pretrained function.
    """

    name: ClassVar[str] = "adaptformer"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    bottleneck: int = 64  # hidden channels h of the branch
    scale: float | str = 0.1  # s, or "learnable" (one scalar per block that starts at 1)
    dropout: float = 0.1  # rate between W_down and W_up
    input: str = "raw"  # "raw": x; "block_norm": the block's frozen LN₂ of x; "own_norm": a new trained LayerNorm of x
    form: str = "parallel"  # "parallel": beside the MLP; "sequential": on the MLP's output
    init: str = "lora"  # "lora": W_up = 0, identity at start; "trunc_normal": σ = 0.02 for both weights

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(bottleneck=self.bottleneck)
        probability(dropout=self.dropout)
        one_of("input", self.input, ("raw", "block_norm", "own_norm"))
        one_of("form", self.form, ("parallel", "sequential"))
        one_of("init", self.init, ("lora", "trunc_normal"))
        if isinstance(self.scale, str):
            one_of("scale", self.scale, ("learnable",))
        if self.form == "sequential" and self.input == "block_norm":
            raise ValueError(
                'form="sequential" reads the MLP output, not the input of LN₂: use input="raw" or "own_norm"'
            )

    @classmethod
    def as_published(cls, video: bool = False, **fields: Any) -> "AdaptFormer":
        """Give the released code. Video: dropout 0, and σ = 0.02 everywhere because vit_video.py initialises twice.

        The video code also trains the norm behind the last block: attach ``NormTuning(norms="final")`` beside it.
        """
        return cls(**{"dropout": 0.0, "init": "trunc_normal", **fields} if video else fields)

    @classmethod
    def as_in_paper(cls, **fields: Any) -> "AdaptFormer":
        """Give the paper's equation: the branch reads LN(x), where the released code reads x."""
        return cls(**{"input": "block_norm", **fields})

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, SINGLE_BRANCHES) if self.input == "block_norm" else super().needs

    @property
    def starts_as_identity(self) -> bool:
        return self.init == "lora"

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            if self.form == "parallel":
                block_norm = self.input == "block_norm"
                graft(block, AdaptFormerBlock, adaptmlp=AdaptMLP(width(block), self), block_norm=block_norm)
            else:
                for seat in output_seats(block, "mlp"):
                    graft(seat, AdaptFormerSequential, adaptmlp=AdaptMLP(width(block), self))
