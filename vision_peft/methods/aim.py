"""AIM (Yang et al., ICLR 2023, https://arxiv.org/abs/2302.03024).

An image ViT sees a clip frame by frame. In every block the frozen attention is used a second time, over the T frames
of each position (class token included), and adapters A(z) = W_up GELU(W_down z) fit the three uses to the clip:

    x ← x + drop_path(T(attn_T(T_in(LN₁ x))))         over time; T_in(z) = z + A(z) with temporal=2, else z
    x ← x + y + S(y),  y = attn(LN₁ x)                over space
    x ← x + MLP(LN₂ x) + s · drop_path(M(LN₂ x))

A temporal embedding (1 T D) is added to every token of a frame before the first block (and before CLIP's ``norm_pre``).
All W_up and the embedding start from zero: at the start the model is the frame-wise image model. The final norm
trains as well.

Source: taoyang1122/adapt-image-models@b3580d2 mmaction/models/backbones/vit_clip.py, vit_imagenet.py, tools/train.py.
Deviations: LayerScale, which the official backbones lack, belongs to the frozen attention, over time too. Rotary
embeddings do not matter over time (every frame of a position has the same). The official drop-path acts on the
adapters alone, in masks over token positions that the whole batch shares; here it is the block's own drop-path, with
masks per frame, which also drops what is frozen where a recipe turns it on (``train_mode(frozen="train")``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import SINGLE_BRANCHES, BlockGraft, attn_input, blocks, mlp_input, output_seats, width
from vision_peft.tuning.families import family_of_block
from vision_peft.tuning.frame_attention import ATTENTION_OVER_TIME, FRAMES, attend_over_time, frames
from vision_peft.tuning.frame_positions import FramePositions
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.input_tokens import prompt_insertion_module
from vision_peft.tuning.method import one_of, positive
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norms import final_norms
from vision_peft.tuning.patch_grid import drop_path


def hidden_channels(dim: int, ratio: float) -> int:
    """Round ``dim`` times ``ratio`` down, so that h / dim as a ratio gives h back."""
    return int(dim * ratio + 1e-6)


class Adapter(nn.Module):
    """W_up GELU(W_down z) on tokens (..., D); zero at the start."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        hidden = hidden_channels(dim, ratio)
        self.down_proj = nn.Linear(dim, hidden)
        self.up_proj = nn.Linear(hidden, dim)
        nn.init.trunc_normal_(self.down_proj.weight, std=0.02)
        for zero in (self.down_proj.bias, self.up_proj.weight, self.up_proj.bias):
            nn.init.zeros_(zero)

    def forward(self, z: Tensor) -> Tensor:
        return self.up_proj(F.gelu(self.down_proj(z)))


class AIMBlock(BlockGraft):
    """Attention over time in front of attention over space, and an adapter beside the MLP."""

    token_wise = True
    aim: nn.ModuleDict
    aim_frames: int
    aim_scale: float

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        n = attn_input(self, x)
        if "temporal_in" in self.aim:
            n = n + self.aim["temporal_in"](n)
        y = self.aim["temporal"](attend_over_time(self, n, self.aim_frames))
        return super().attn_half(x + drop_path(family_of_block(self).drop_path(self, "attn"), y), **kwargs)

    def mlp_half(self, x: Tensor) -> Tensor:
        y = self.aim_scale * self.aim["mlp"](mlp_input(self, x))
        return super().mlp_half(x) + drop_path(family_of_block(self).drop_path(self, "mlp"), y)


class AIMSpatial(Graft):
    """On the block's first drop-path, which the output y of attention over space passes: S is not dropped."""

    token_wise = True
    aim_spatial: Adapter

    def forward(self, y: Tensor) -> Tensor:
        return super().forward(y) + self.aim_spatial(y)


@dataclass(frozen=True)
class AIM(BlockMethod):
    """The image model's own attention over time, with adapters behind it, behind attention and beside the MLP."""

    name: ClassVar[str] = "aim"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-4}

    ratio: float = 0.25  # hidden channels of an adapter over the width
    temporal: int = 1  # adapters around the attention over time: 1 behind it, 2 in front of it too
    scale: float = 0.5  # s of the adapter beside the MLP

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(ratio=self.ratio, scale=self.scale)
        one_of("temporal", self.temporal, (1, 2))

    @classmethod
    def as_published(cls, config: str = "kinetics", **fields: Any) -> "AIM":
        """Give the settings of the released configs: "kinetics" (and Diving-48) is the default, "ssv2" has more."""
        one_of("config", config, ("kinetics", "ssv2"))
        return cls(**{**({"temporal": 2, "scale": 1.0} if config == "ssv2" else {}), **fields})

    @property
    def needs(self) -> tuple[Need, ...]:
        return FRAMES, ATTENTION_OVER_TIME, SINGLE_BRANCHES

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: Any) -> None:
        num_frames = frames(model)
        chosen, first = self.chosen_modules(model), blocks(model)[0]
        for block in self.chosen_blocks(model):
            dim = width(block)
            if hidden_channels(dim, self.ratio) < 1:
                raise ValueError(f"ratio {self.ratio} leaves no hidden channel of the width {dim}")
            places = ("temporal", "mlp") if self.temporal == 1 else ("temporal_in", "temporal", "mlp")
            adapters = nn.ModuleDict({place: Adapter(dim, self.ratio) for place in places})
            graft(block, AIMBlock, aim=adapters, aim_frames=num_frames, aim_scale=self.scale)
            (seat,) = output_seats(block, "attn")
            graft(seat, AIMSpatial, aim_spatial=Adapter(dim, self.ratio))
        if first in chosen:
            embedding = nn.Parameter(torch.zeros(1, num_frames, width(first)))
            graft(prompt_insertion_module(model), FramePositions, temporal_embed=embedding)
        for norm in chosen.intersection(final_norms(model)):
            norm.requires_grad_(True)
