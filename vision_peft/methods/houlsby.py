"""Houlsby adapters (Houlsby et al., ICML 2019, https://arxiv.org/abs/1902.00751).

A bottleneck with a skip on the output y of each sub-layer, before it joins the residual stream:

    y ← y + W_up GELU(W_down y + b_down) + b_up,  y = scale(attn(LN₁ x)) and y = scale(mlp(LN₂ x))

Source: google-research/adapter-bert modeling.py (feedforward_adapter). BERT is post-norm; on a pre-norm block the place
is the same, between sub-layer and residual sum, and inside drop-path. ``positions=("mlp",)`` is the Pfeiffer adapter
(https://arxiv.org/abs/2005.00247), one per block.
Both weights start from a normal cut at ±2σ with σ = 0.001 as in the code; the paper says 0.01. Biases start at zero.

VPT's code (src/models/vit_adapter) starts both weights at exactly zero, where every gradient but that of b_up is zero:
its adapters never learn. That is not reproduced here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import add_adapted, is_recorded, widen
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import output_seats, run_by_halves, width
from vision_peft.tuning.graft import OutputGraft, graft
from vision_peft.tuning.method import positive, some_of
from vision_peft.tuning.norms import norm_layers


class Bottleneck(nn.Module):
    """W_up GELU(W_down y + b_down) + b_up on tokens ``(..., D)``."""

    def __init__(self, dim: int, hidden: int, sigma: float) -> None:
        super().__init__()
        self.down_proj = nn.Linear(dim, hidden)
        self.up_proj = nn.Linear(hidden, dim)
        for layer in (self.down_proj, self.up_proj):
            nn.init.trunc_normal_(layer.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor) -> Tensor:
        return widen(self.down_proj(y), F.gelu, None, self.up_proj.weight, self.up_proj.bias)


class HoulsbyAdapter(OutputGraft):
    """Sits on the block's drop-path, which every sub-layer output of every family passes."""

    token_wise = True
    houlsby: Bottleneck

    def add_to(self, x: Tensor, y: Tensor) -> Tensor:
        down, up = self.houlsby.down_proj, self.houlsby.up_proj
        alone = type(self).__bases__ == (HoulsbyAdapter, nn.Identity)
        if alone and x.dtype in (torch.float32, torch.float64) and is_recorded(y, down.weight, up.weight):
            return add_adapted(x, y, down.weight, down.bias, F.gelu, up.weight, up.bias)
        return super().add_to(x, y)

    def forward(self, y: Tensor) -> Tensor:
        return super().forward(y + self.houlsby(y))


@dataclass(frozen=True)
class Houlsby(BlockMethod):
    """Sequential adapters behind attention and MLP of every block.

    The default leaves the norms frozen, unlike paper and code: that is what vision papers compare as "Adapter", and
    norms can be added by stacking ``NormTuning``. Its small random start is near the pretrained function, not equal.
    """

    name: ClassVar[str] = "houlsby"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    bottleneck: int = 64  # hidden channels
    train_norms: bool = False  # all layer norms of the backbone train too
    positions: tuple[str, ...] = ("attn", "mlp")  # sub-layers with an adapter; ("mlp",): Pfeiffer
    sigma: float = 1e-3  # of both weights at the start

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(bottleneck=self.bottleneck, sigma=self.sigma)
        some_of("positions", self.positions, ("attn", "mlp"))

    @classmethod
    def choose_title(cls, fields: Mapping[str, Any]) -> str:
        return "Pfeiffer" if fields.get("positions") in (["mlp"], ("mlp",)) else "Houlsby"

    @classmethod
    def as_published(cls, **fields: Any) -> "Houlsby":
        """Give the released code: σ = 0.001, and all layer norms train."""
        return cls(**{"train_norms": True, **fields})

    @classmethod
    def as_in_paper(cls, **fields: Any) -> "Houlsby":
        """Give the paper: σ = 0.01, where the released code has 0.001; all layer norms train."""
        return cls(**{"train_norms": True, "sigma": 1e-2, **fields})

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            run_by_halves(block)
            seats = [seat for position in self.positions for seat in output_seats(block, position)]
            for seat in dict.fromkeys(seats):  # one where attention and MLP join as one
                graft(seat, HoulsbyAdapter, houlsby=Bottleneck(width(block), self.bottleneck, self.sigma))
        if self.train_norms:
            for norm in self.chosen_modules(model).intersection(norm_layers(model)):
                norm.requires_grad_(True)
