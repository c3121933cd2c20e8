"""Adapter+ (Steitz and Roth, CVPR 2024, https://arxiv.org/abs/2406.06820).

One bottleneck per block with a scale for every channel, behind the whole block:

    u ← u + γ ⊙ drop_path(W_up dropout(GELU(W_down norm(u))))

Other positions of the paper's study, with a and m for the outputs of attention and MLP after LayerScale and drop-path
and A(·) for the bottleneck, are

    post:          x ← x + a,  x ← x + m,  x ← x + A(x)        (pfeiffer: the same function; the code's settings differ)
    pre:           x ← x + a,  x ← x + A(x),  x ← x + m
    parallel:      x ← x + a,  x ← x + m + A(x)
    intermediate:  x ← x + a,  x ← x + m + A(m)                (what AdapterHub calls Pfeiffer)
    houlsby:       x ← x + a + A'(a),  x ← x + m + A(m)

Source: visinf/adapter_plus@191c4ab adapter_plus/vit_adapter.py, conf/adapter. Its drop-path rate of 0.1 is the same in
all blocks. Deviations: none; its ``houlsby`` settings train all layer norms as well: attach ``NormTuning`` beside it.

Where several methods act on a block, the adapter reads what those attached before it add and not what later ones add,
in all positions but ``parallel``: ``post`` and ``pre`` depend on the order of attaching.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import narrow_linear, widen
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import BlockGraft, output_seats, width
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.method import one_of, positive, probability

POSITIONS = ("post", "pre", "parallel", "intermediate", "houlsby", "pfeiffer")


class ScaledBottleneck(nn.Module):
    """γ ⊙ drop_path(W_up dropout(GELU(W_down norm(x)))) on tokens ``(B, ..., D)``."""

    def __init__(self, dim: int, method: "AdapterPlus") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6) if method.norm else nn.Identity()
        self.down_proj = nn.Linear(dim, method.bottleneck, bias=method.bias)
        self.dropout = nn.Dropout(method.dropout)
        self.up_proj = nn.Linear(method.bottleneck, dim, bias=method.bias)
        self.drop_path = DropPath(method.drop_path)
        if isinstance(method.scaling, str):
            self.scaling = nn.Parameter(torch.ones(dim if method.scaling == "channel" else 1))
        else:
            self.scaling = float(method.scaling)
        self._initialise(method.init)

    def _initialise(self, init: str) -> None:
        for layer in (self.down_proj, self.up_proj):
            if init == "houlsby":
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            elif init == "bert":
                nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None and not (init == "lora" and layer is self.down_proj):
                nn.init.zeros_(layer.bias)  # the code's "lora" leaves W_down's bias as nn.Linear draws it
        if init == "lora":
            nn.init.kaiming_uniform_(self.down_proj.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = narrow_linear(self.norm(x), self.down_proj.weight, self.down_proj.bias)
        scaling = self.scaling if isinstance(self.scaling, Tensor) else None
        y = self.drop_path(widen(hidden, F.gelu, self.dropout, self.up_proj.weight, self.up_proj.bias, scaling))
        return y if scaling is not None else y * self.scaling


class AdapterPlusPost(BlockGraft):
    """Behind the whole block."""

    token_wise = True
    adapter_plus: ScaledBottleneck

    def mlp_half(self, x: Tensor) -> Tensor:
        y = super().mlp_half(x)
        return y + self.adapter_plus(y)


class AdapterPlusPre(BlockGraft):
    """Between attention and MLP."""

    token_wise = True
    adapter_plus: ScaledBottleneck

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        y = super().attn_half(x, **kwargs)
        return y + self.adapter_plus(y)


class AdapterPlusParallel(BlockGraft):
    """Beside the MLP and its norm."""

    token_wise = True
    adapter_plus: ScaledBottleneck

    def mlp_half(self, x: Tensor) -> Tensor:
        return super().mlp_half(x) + self.adapter_plus(x)


class AdapterPlusSequential(Graft):
    """On the output y of a half, behind the block's own drop-path: y + A(y)."""

    token_wise = True
    adapter_plus: ScaledBottleneck

    def forward(self, y: Tensor) -> Tensor:
        y = super().forward(y)
        return y + self.adapter_plus(y)


_BLOCK_KINDS = {
    "post": AdapterPlusPost,
    "pfeiffer": AdapterPlusPost,
    "pre": AdapterPlusPre,
    "parallel": AdapterPlusParallel,
}

_PUBLISHED: dict[str, dict[str, Any]] = {  # conf/adapter, beyond the defaults
    "adapter_plus": {},
    "post": {"scaling": 1.0},
    "pre": {"position": "pre", "scaling": 1.0},
    "intermediate": {"position": "intermediate", "scaling": 1.0},
    "houlsby": {"position": "houlsby", "scaling": 1.0},
    "pfeiffer": {"position": "pfeiffer", "scaling": 1.0, "norm": True, "init": "bert"},
    "adaptformer": {"position": "parallel", "scaling": 0.1, "init": "lora"},
}


@dataclass(frozen=True)
class AdapterPlus(BlockMethod):
    """Bottlenecks with a learned scale per channel, one behind every block."""

    name: ClassVar[str] = "adapter_plus"
    title: ClassVar[str] = "Adapter+"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    bottleneck: int = 8  # hidden channels
    position: str = "post"  # "post", "pre", "parallel", "intermediate", "houlsby" (two a block), "pfeiffer" (= "post")
    scaling: float | str = "channel"  # γ: "channel" (learned per channel), "learned" (one number), or a constant
    norm: bool = False  # a trained LayerNorm in front of W_down
    bias: bool = True  # biases of W_down and W_up
    dropout: float = 0.0  # rate in front of W_up
    drop_path: float = 0.1  # rate at which the adapter is skipped, per image
    init: str = "houlsby"  # "houlsby": σ = 0.01 cut at 2 σ; "bert": σ = 0.02; "lora": W_up = 0, identity at start

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(bottleneck=self.bottleneck)
        one_of("position", self.position, POSITIONS)
        if isinstance(self.scaling, str):
            one_of("scaling", self.scaling, ("channel", "learned"))
        else:
            positive(scaling=self.scaling)
        probability(dropout=self.dropout, drop_path=self.drop_path)
        one_of("init", self.init, ("houlsby", "bert", "lora"))

    @classmethod
    def as_published(cls, config: str = "adapter_plus", **fields: Any) -> "AdapterPlus":
        """Give the settings of a named config of the released code, whose versions of older methods are its own.

        adapter_plus: the default.
        post, pre, intermediate: a constant scale of 1.
        houlsby: all layer norms train too (attach ``NormTuning`` beside it), and σ is 0.01 as in Houlsby's paper.
        pfeiffer: reads the whole block's output through a norm; Pfeiffer's, the MLP's output, is ``intermediate``.
        adaptformer: GELU for ReLU, no dropout, drop-path on the branch, and W_down's bias does not start from zero.
        """
        one_of("config", config, tuple(_PUBLISHED))
        return cls(**{**_PUBLISHED[config], **fields})

    @property
    def starts_as_identity(self) -> bool:
        return self.init == "lora"

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            if self.position in _BLOCK_KINDS:
                graft(block, _BLOCK_KINDS[self.position], adapter_plus=ScaledBottleneck(width(block), self))
                continue
            halves = ("attn", "mlp") if self.position == "houlsby" else ("mlp",)
            paths = [seat for half in halves for seat in output_seats(block, half)]
            for path in dict.fromkeys(paths):
                graft(path, AdapterPlusSequential, adapter_plus=ScaledBottleneck(width(block), self))
