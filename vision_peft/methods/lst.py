"""LST, ladder side tuning (Sung et al., NeurIPS 2022, https://arxiv.org/abs/2206.06522).

A narrow network beside the frozen one, of width d = D / r. It climbs over the outputs h of the backbone's layers,

    s₀ = Down₀ h₀,  s ← Blockᵢ(g s + (1 - g) Downᵢ hᵢ₊₁),  g = σ(αᵢ / 0.1),

and Up s replaces the backbone's last features. Nothing trained feeds the backbone: training keeps no activations of it
and has no backward pass through it.

Source: ylsung/Ladder-Side-Tuning@1798e82 CLIP-ViL/src/lxrt/modeling.py (LXRTEncoder). That code is for language models;
no official vision model exists, so these are choices of ours: side blocks are pre-norm like the backbone's (4d hidden
channels, as many heads, no rotary or relative positions: those of the backbone are in the features); Up s passes the
backbone's frozen final norm (the T5 side network has a trained one in front of Up); side blocks start as ``nn.Linear``
does, where the code copies a pruned backbone. Downs and Up have no biases, as in CLIP-ViL.

Stacked with a method that trains inside the backbone, gradients reach that method through the ladder, and the backward
pass through the backbone is back.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.method import Method, one_of, positive
from vision_peft.tuning.timm_blocks import FLAT_FAMILIES, BlockGraft, blocks, width

TEMPERATURE = 0.1  # of the gates, gate_T in the code


class Ladder(nn.Module):
    """Up s after the layers climbed so far, from h₀, h₁, ... (each B N D) to (B N D)."""

    def __init__(self, dim: int, heads: int, layers: tuple[int, ...], method: "LST") -> None:
        super().__init__()
        side = dim // method.reduction
        self.layers, self.mix = layers, method.mix
        self.first_down = nn.Linear(dim, side, bias=False)
        self.downs = nn.ModuleList(nn.Linear(dim, side, bias=False) for _ in layers)
        self.gates = nn.Parameter(torch.zeros(len(layers))) if method.gate == "learned" else None
        self.blocks = nn.ModuleList(Block(side, heads, mlp_ratio=4, qkv_bias=True) for _ in layers)
        self.up = nn.Linear(side, dim, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        s = self.first_down(features[0])
        for index, layer in enumerate(self.layers):
            if layer + 1 < len(features):
                tap = self.downs[index](features[layer + 1])
                s = self.blocks[index](self._mixed(s, tap, index)) if self.mix == "before" else self.blocks[index](s)
                s = s if self.mix == "before" else self._mixed(s, tap, index)
        return self.up(s)

    def _mixed(self, s: Tensor, tap: Tensor, index: int) -> Tensor:
        if self.gates is None:
            return s + tap
        gate = torch.sigmoid(self.gates[index] / TEMPERATURE)
        return gate * s + (1 - gate) * tap


class Taps:
    """What entered the blocks in the current forward, until the next one begins. Copies start empty."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []

    def __deepcopy__(self, memo: Any) -> "Taps":
        return Taps()

    def __reduce__(self) -> tuple[Any, ...]:
        return Taps, ()


class LSTTap(BlockGraft):
    """Notes what enters the block; the first block begins the list anew."""

    lst_taps: Taps
    lst_first: bool

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        if self.lst_first:
            self.lst_taps.features = [x]
        else:
            self.lst_taps.features.append(x)
        return super().attn_half(x, **kwargs)


class LSTNorm(Graft):
    """The final norm, of what the ladder makes out of everything noted and the last block's output x (B N D)."""

    lst: Ladder
    lst_taps: Taps

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.lst([*self.lst_taps.features, x]))


@dataclass(frozen=True)
class LST(Method):
    """A narrow side network that reads the backbone's features; nothing is trained inside the backbone."""

    name: ClassVar[str] = "lst"

    reduction: int = 8  # r: the side network is r times narrower; divides the width
    gate: str = "learned"  # "learned": g per layer; "none": the two are added
    mix: str = "before"  # "before" or "after" the side block (add_residual_after in the code)
    layers: tuple[int, ...] | None = None  # numbers of the layers with a side block, from 0; null: all

    def __post_init__(self) -> None:
        positive(reduction=self.reduction)
        one_of("gate", self.gate, ("learned", "none"))
        one_of("mix", self.mix, ("before", "after"))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))  # a config hands over a list
            if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
                raise ValueError(f"layers must be rising numbers from 0, at least one; got {self.layers}")

    def attach(self, model: Any) -> None:
        all_blocks = blocks(model)
        if not isinstance(model, FLAT_FAMILIES):
            raise ValueError(
                f"{type(model).__name__} changes tokens and width over its stages: a ladder needs one of each"
            )
        dim, heads, depth = width(all_blocks[0]), all_blocks[0].attn.num_heads, len(all_blocks)
        if dim % self.reduction or dim // self.reduction % heads:
            raise ValueError(
                f"reduction must make the width {dim} a multiple of {heads} heads; got {self.reduction}, a side width "
                f"of {dim / self.reduction:g}"
            )
        layers = tuple(range(depth)) if self.layers is None else self.layers
        if layers[-1] >= depth:
            raise ValueError(f"layers must be below the depth {depth} of the backbone; got {layers}")
        taps = Taps()
        for block in all_blocks:
            graft(block, LSTTap, lst_taps=taps, lst_first=block is all_blocks[0])
        graft(model.norm, LSTNorm, lst=Ladder(dim, heads, layers, self), lst_taps=taps)
