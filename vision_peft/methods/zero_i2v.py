"""ZeroI2V (Li et al., ECCV 2024, https://arxiv.org/abs/2310.01324).

An image ViT sees a clip frame by frame. Some channels of keys and values come from neighbouring frames, and linear
adapters A(z) = z + s · (W_up dropout(W_down z + b_down) + b_up) stand around the frozen layers:

    x ← x + A_S(attn(A_T(LN₁ x))),   in it k[t] and v[t] take their first D / shift_div channels of frame t - 1, the
                                     next as many of frame t + 1; the first and last frame keep their own
    x ← x + A_O(MLP(A_M(LN₂ x)))

With ``long_shift_div`` two further groups come of t - 2 and t + 2. A temporal embedding (1 T D) is added to every token
of a frame before the first block (and CLIP's ``norm_pre``). All W_up and the embedding start from zero, so that it is
the image model with shifted channels. The final norm trains as well. ``vp.merge`` leaves ``ZeroI2V(adapters=0)``.

Source: leexinhao/ZeroI2V@ce04d8b mmaction/models/backbones/vit_zero_clip.py, models/common/stdha.py,
tools/weight_reparam.py. Deviations: where there is LayerScale, which CLIP lacks, A_S and A_O stand in front of it. The
official class of merged models ignores the long shift.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import blocks, is_fused, linears, width
from vision_peft.tuning.frame_attention import FRAMES, frames, shift_channels
from vision_peft.tuning.frame_positions import FramePositions
from vision_peft.tuning.graft import Graft, graft, kinds
from vision_peft.tuning.input_tokens import prompt_insertion_module
from vision_peft.tuning.method import one_of, positive, probability
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norm_readers import INPUT_NORMS, fold_in_front, norm_readers
from vision_peft.tuning.norms import final_norms


class LinearAdapter(nn.Module):
    """z + s · (W_up dropout(W_down z + b_down) + b_up) on tokens (..., D); the identity at the start."""

    def __init__(self, dim: int, method: "ZeroI2V") -> None:
        super().__init__()
        self.down_proj = nn.Linear(dim, method.hidden_channels(dim))
        self.up_proj = nn.Linear(method.hidden_channels(dim), dim)
        self.dropout, self.scale = nn.Dropout(method.dropout), method.scale
        nn.init.trunc_normal_(self.down_proj.weight, std=0.02)
        for zero in (self.down_proj.bias, self.up_proj.weight, self.up_proj.bias):
            nn.init.zeros_(zero)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.scale * self.up_proj(self.dropout(self.down_proj(z)))

    def dense(self) -> tuple[Tensor, Tensor]:
        """Compute M (D D) and t (D) of z + M z + t."""
        up = self.scale * self.up_proj.weight
        return up @ self.down_proj.weight, up @ self.down_proj.bias + self.scale * self.up_proj.bias


class ZeroI2VNorm(Graft):
    """A norm with an adapter behind it, in front of the layers that read it."""

    token_wise = True
    zero_i2v: LinearAdapter
    zero_i2v_place: tuple[Any, list[nn.Linear]]  # the block and the layers that read; no children of the norm

    def forward(self, x: Tensor) -> Tensor:
        return self.zero_i2v(super().forward(x))

    def fold(self) -> None:
        _check_last(self, ZeroI2VNorm)
        block, readers = self.zero_i2v_place
        fold_in_front(block, self, readers, *self.zero_i2v.dense())


class ZeroI2VOutput(Graft):
    """A linear layer with an adapter behind it."""

    token_wise = True
    zero_i2v: LinearAdapter
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return self.zero_i2v(super().forward(x))

    def fold(self) -> None:
        matrix, shift = self.zero_i2v.dense()
        if self.bias is None:
            raise ValueError("a shift at a Linear without a bias has nowhere to go")
        self.weight.add_(matrix @ self.weight)
        self.bias.add_(matrix @ self.bias + shift)


class ZeroI2VShift(Graft):
    """A layer that makes keys or values (or queries, keys and values): some channels are those of other frames."""

    token_wise = True
    zero_i2v_steps: list[tuple[int, int]]
    zero_i2v_frames: int
    zero_i2v_fused: bool

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.shape[0] % self.zero_i2v_frames:  # len() would fix the batch of an exported graph
            return y  # of prompts, which are the same in every frame
        q, kv = y.tensor_split([y.shape[-1] // 3 if self.zero_i2v_fused else 0], dim=-1)
        parts = kv.chunk(1 + self.zero_i2v_fused, dim=-1)
        return torch.cat([q, *(shift_channels(z, self.zero_i2v_frames, self.zero_i2v_steps) for z in parts)], dim=-1)

    def fold(self) -> None:
        """Leave it where it is: see ``ZeroI2V.merged``."""
        _check_last(self, ZeroI2VShift)


def _check_last(module: nn.Module, kind: type[Graft]) -> None:
    later = kinds(module)[kinds(module).index(kind) + 1 :]
    if later:
        raise ValueError(f"{later[0].__name__} was attached behind ZeroI2V on the same layer: attach it first")


@dataclass(frozen=True)
class ZeroI2V(BlockMethod):
    """Keys and values of neighbouring frames, and linear adapters that fold into the frozen layers."""

    name: ClassVar[str] = "zero_i2v"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-4}

    ratio: float = 0.25  # hidden channels of an adapter over the width
    shift_div: int = 12  # channels of a block over those that come of the frame before (and of the one after)
    long_shift_div: int | None = None  # the same for two frames before; null: none
    long_shift_right: bool = True  # with long_shift_div: and for two frames after
    adapters: int = 4  # of a block; 3: none behind the MLP; 0: none, what merge leaves
    scale: float = 0.5  # s of the adapters
    dropout: float = 0.1  # rate inside adapters

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(ratio=self.ratio, shift_div=self.shift_div, scale=self.scale)
        probability(dropout=self.dropout)
        one_of("adapters", self.adapters, (4, 3, 0))
        if self.long_shift_div is not None:
            positive(long_shift_div=self.long_shift_div)

    @classmethod
    def as_published(cls, config: str = "kinetics", **fields: Any) -> "ZeroI2V":
        """Give the settings of the released configs: "kinetics" is the default, "ssv2" shifts further, scale 1."""
        one_of("config", config, ("kinetics", "ssv2"))
        ssv2 = {"long_shift_div": 12, "scale": 1.0, "dropout": 0.0}
        return cls(**{**(ssv2 if config == "ssv2" else {}), **fields})

    @property
    def needs(self) -> tuple[Need, ...]:
        return FRAMES, INPUT_NORMS

    def merged(self) -> "ZeroI2V":
        return replace(self, adapters=0)

    def hidden_channels(self, dim: int) -> int:
        """Round the width of an adapter down, so that h / dim as a ratio gives h back."""
        return int(dim * self.ratio + 1e-6)

    def steps(self, dim: int) -> list[tuple[int, int]]:
        """List groups of ``dim`` channels, in order: how many, and of how many frames before (below 0: after).

        Raises:
            ValueError: a group of none, or more of them than ``dim``.
        """
        groups = [(dim // self.shift_div, 1), (dim // self.shift_div, -1)]
        if self.long_shift_div is not None:
            groups += [(dim // self.long_shift_div, 2), (dim // self.long_shift_div, -2)][: 1 + self.long_shift_right]
        sizes = [channels for channels, _ in groups]
        if min(sizes) < 1 or sum(sizes) > dim:
            raise ValueError(
                f"shift_div={self.shift_div}, long_shift_div={self.long_shift_div} shift {sizes} of {dim} channels of "
                "keys and values: wanted at least one each, and no more than there are"
            )
        return groups

    def attach(self, model: Any) -> None:
        num_frames = frames(model)
        chosen, first = self.chosen_modules(model), blocks(model)[0]
        for block in self.chosen_blocks(model):
            dim = width(block)
            if self.adapters and self.hidden_channels(dim) < 1:
                raise ValueError(f"ratio {self.ratio} leaves no hidden channel of the width {dim}")
            fused = is_fused(block)
            makers = linears(block, "qkv") if fused else linears(block, "k") + linears(block, "v")
            for layer in makers:
                steps = self.steps(layer.out_features // (3 if fused else 1))
                constants = {"zero_i2v_steps": steps, "zero_i2v_frames": num_frames, "zero_i2v_fused": fused}
                graft(layer, ZeroI2VShift, **constants)
            for name in ("proj", "fc2")[: max(self.adapters - 2, 0)]:
                (layer,) = linears(block, name)
                graft(layer, ZeroI2VOutput, zero_i2v=LinearAdapter(dim, self))
            for site in ("attn", "mlp") if self.adapters else ():
                for norm, readers in norm_readers(block, site):
                    graft(norm, ZeroI2VNorm, zero_i2v=LinearAdapter(dim, self), zero_i2v_place=(block, readers))
        if first in chosen:
            embedding = nn.Parameter(torch.zeros(1, num_frames, width(first)))
            graft(prompt_insertion_module(model), FramePositions, temporal_embed=embedding)
        for norm in chosen.intersection(final_norms(model)):
            norm.requires_grad_(True)
