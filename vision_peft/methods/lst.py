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

On Swin, whose width grows from stage to stage, the whole ladder is a choice of ours: every stage has a side network of
its own width D / r, whose blocks are Swin blocks with the windows, shifts and heads of those beside them, so that the
cost stays linear in the tokens; hᵢ₊₁ of a stage's last block is what leaves the stage. Between two stages s follows the
tokens: the 2 x 2 neighbours of s, side by side, go through a linear map without a bias, from 4 d to the next width.

Stacked with a method that trains inside the backbone, gradients reach that method through the ladder, and the backward
pass through the backbone is back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import SIDE_BLOCKS, BlockGraft, stages, width
from vision_peft.tuning.families import family_of, family_of_block
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.method import one_of, positive
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norms import NORM_BEHIND_BLOCKS, token_norm
from vision_peft.tuning.thread_state import ThreadState

TEMPERATURE = 0.1  # of the gates, gate_T in the code


class Ladder(nn.Module):
    """Up s after the layers climbed so far, from h₀, h₁, ... (each B N D, of Swin B H W D) to the shape of the last.

    The features of a stage are what enters each of its blocks and what leaves the last one.
    """

    def __init__(self, stages: list[list[Any]], layers: tuple[int, ...], method: "LST") -> None:
        super().__init__()
        self.mix = method.mix
        numbered = [(stage, block) for stage, members in enumerate(stages) for block in members]
        climbed = [numbered[layer] for layer in layers]
        dims = [width(members[0]) for members in stages]
        sides = [dim // method.reduction for dim in dims]
        # by stage, for each of its side blocks: its number, and where its hᵢ₊₁ stands among the features
        self.rungs = [
            [(index, layers[index] + stage + 1) for index, (at, _) in enumerate(climbed) if at == stage]
            for stage in range(len(stages))
        ]
        self.first_down = nn.Linear(dims[0], sides[0], bias=False)
        self.downs = nn.ModuleList(nn.Linear(dims[stage], sides[stage], bias=False) for stage, _ in climbed)
        self.gates = nn.Parameter(torch.zeros(len(layers))) if method.gate == "learned" else None
        family = family_of_block(stages[0][0])
        self.blocks = nn.ModuleList(family.side_block(block, sides[stage]) for stage, block in climbed)
        self.mergings = nn.ModuleList(family.side_merging(side, wider) for side, wider in pairwise(sides))
        self.up = nn.Linear(sides[-1], dims[-1], bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        s = self.first_down(features[0])
        for stage, rungs in enumerate(self.rungs):
            s = self.mergings[stage - 1](s) if stage else s
            for index, position in rungs:
                if position < len(features):
                    s = self._climbed(s, self.downs[index](features[position]), index)
        return self.up(s)

    def _climbed(self, s: Tensor, tap: Tensor, index: int) -> Tensor:
        if self.mix == "before":
            return self.blocks[index](self._mixed(s, tap, index))
        return self._mixed(self.blocks[index](s), tap, index)

    def _mixed(self, s: Tensor, tap: Tensor, index: int) -> Tensor:
        if self.gates is None:
            return s + tap
        gate = torch.sigmoid(self.gates[index] / TEMPERATURE)
        return gate * s + (1 - gate) * tap


class Taps(ThreadState):
    """What entered blocks and left stages in a thread's current forward, until its next one begins."""

    @property
    def features(self) -> list[Tensor]:
        """Those that this thread holds, in order, to be read."""
        return getattr(self.own, "features", [])

    def note(self, place: int, x: Tensor) -> None:
        """Put ``x`` behind the ``place`` before it; at place 0 a forward begins.

        Blocks that run again in the backward pass, the last one first, follow nothing and leave nothing.
        """
        if place == 0:
            self.own.features = [x]
        elif len(self.features) == place:
            self.own.features.append(x)

    def clear(self) -> None:
        """Let go of all features."""
        self.own.features = []


class LSTTap(BlockGraft):
    """Notes what enters the block."""

    lst_taps: Taps
    lst_place: int  # among the features

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        self.lst_taps.note(self.lst_place, x)
        return super().attn_half(x, **kwargs)


class LSTStageTap(Graft):
    """Notes what leaves a stage, on its way to being merged for the next one."""

    lst_taps: Taps
    lst_place: int

    def forward(self, x: Tensor) -> Tensor:
        self.lst_taps.note(self.lst_place, x)
        return super().forward(x)


class LSTNorm(Graft):
    """The final norm, of what the ladder makes out of everything noted and what comes out of the last block."""

    lst: Ladder
    lst_taps: Taps

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.lst([*self.lst_taps.features, x]))

    def forget(self) -> None:
        self.lst_taps.clear()


@dataclass(frozen=True)
class LST(BlockMethod):
    """A narrow side network that reads the backbone's features; nothing is trained inside the backbone."""

    name: ClassVar[str] = "lst"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-3}

    reduction: int = 8  # r: the side network is r times narrower; divides the width
    gate: str = "learned"  # "learned": g per layer; "none": the two are added
    mix: str = "before"  # "before" or "after" the side block (add_residual_after in the code)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(reduction=self.reduction)
        one_of("gate", self.gate, ("learned", "none"))
        one_of("mix", self.mix, ("before", "after"))

    @classmethod
    def read_fields(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(recorded)
        layers = fields.pop("layers", None)  # what ``blocks`` was called
        return fields if layers is None else {"blocks": layers, **fields}

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, SIDE_BLOCKS, NORM_BEHIND_BLOCKS)

    def attach(self, model: Any) -> None:
        family, by_stage = family_of(model), stages(model)
        all_blocks = [block for members in by_stage for block in members]
        for block in (members[0] for members in by_stage):
            dim, heads = width(block), family_of_block(block).heads(block)
            if dim % self.reduction or dim // self.reduction % heads:
                raise ValueError(
                    f"reduction must make the width {dim} a multiple of {heads} heads; got {self.reduction}, a side "
                    f"width of {dim / self.reduction:g}"
                )
        layers = tuple(all_blocks.index(block) for block in self.chosen_blocks(model))
        taps = Taps()
        place = 0
        for members, merging in zip(by_stage, [*family.token_mergings(model), None], strict=True):
            for block in members:
                graft(block, LSTTap, lst_taps=taps, lst_place=place)
                place += 1
            if merging is not None:
                graft(merging, LSTStageTap, lst_taps=taps, lst_place=place)
                place += 1
        family.run_final_norm_once(model)  # a second run would find other taps
        graft(token_norm(model), LSTNorm, lst=Ladder(by_stage, layers, self), lst_taps=taps)
