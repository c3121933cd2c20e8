"""Visual Prompt Tuning (Jia et al., ECCV 2022, https://arxiv.org/abs/2203.12119).

Shallow: P learned tokens join the sequence behind the prefix tokens, before the first block. Deep: every block has P
tokens of its own, whose outputs the next block overwrites. Nothing reads those outputs, so a deep prompt p acts only as
extra keys and values of its block,

    K = [W_k LN₁(p); K],  V = [W_v LN₁(p); V],

which is how it is computed here: the function of the official code at the price of P keys and values.

Source: KMnP/vpt@4410440 src/models/vit_prompt/vit.py, described in its paper (implemented from the description).
Deviations: at average pooling deep prompts are not pooled over; on Swin the dropout mask is drawn per window, and
prompts stay within their block instead of passing through patch merging; every stage has a projection of its own.
Where a block has several attentions, all see its prompts, and each draws a dropout mask of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.attention import KEYS_VALUES, KeyValueAttention, project
from vision_peft.tuning.backbone import patch_area
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import blocks, branches, input_width, width
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.input_tokens import INPUT_TOKENS, add_prefix_tokens, prompt_insertion_module
from vision_peft.tuning.method import positive, probability
from vision_peft.tuning.module_input import as_input
from vision_peft.tuning.needs import Need


class VPTInput(Graft):
    """Puts the prompts into the token sequence (B N D -> B N+P D) at index ``prompt_at``."""

    prompts: nn.Parameter
    prompt_project: nn.Module
    prompt_dropout: nn.Dropout
    prompt_at: int

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        prompts = self.prompt_dropout(self.prompt_project(as_input(self.prompts)).expand(x.shape[0], -1, -1))
        return torch.cat([x[:, : self.prompt_at], prompts.type_as(x), x[:, self.prompt_at :]], dim=1)


class VPTAttention(KeyValueAttention):
    """Adds the keys and values of this block's prompts; one set a batch, one an image under dropout."""

    prompts: nn.Parameter
    prompt_source: tuple[Any, ...]  # the attention beside this one in the block that has the prompts; empty: this one
    prompt_dropout: nn.Dropout
    prompt_path: tuple[nn.Module, ...]  # what a prompt passes before this attention; modules that live elsewhere

    def extra_keys_values(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        source = self.prompt_source[0] if self.prompt_source else self
        prompts = as_input(source.prompts).unsqueeze(0)
        to_width, norm = self.prompt_path
        prompts = to_width(prompts)
        if self.prompt_dropout.training and self.prompt_dropout.p > 0:
            prompts = self.prompt_dropout(prompts.expand(x.shape[0], -1, -1))
        _, keys, values = project(self, norm(prompts).type_as(x))
        return [*super().extra_keys_values(x), (keys, values)]


@dataclass(frozen=True)
class VPT(BlockMethod):
    """Prompts at the input (shallow) or in every block (deep)."""

    name: ClassVar[str] = "vpt"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    tokens: int = 10  # prompts P, per block if deep
    deep: bool = True
    dropout: float = 0.0  # rate on prompts, drawn per image
    project: int | None = (
        None  # prompts of this many channels pass one shared Linear to the width (one a stage of Swin); None: none
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(tokens=self.tokens)
        if not self.deep and self.blocks != "all":
            raise ValueError(
                f"prompts at the input (deep=False) belong to no block: they take no blocks; got {self.blocks!r}"
            )
        probability(dropout=self.dropout)
        if self.project is not None:
            positive(project=self.project)

    @classmethod
    def choose_title(cls, fields: Mapping[str, Any]) -> str:
        return "VPT-shallow" if fields.get("deep") is False else "VPT-deep"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, KEYS_VALUES) if self.deep else (INPUT_TOKENS,)

    def _prompts(self, model: nn.Module, dim: int) -> nn.Parameter:
        dim = self.project or dim
        bound = math.sqrt(6 / (patch_area(model) + dim))  # Xavier over patch embedding and prompt, as in vit.py
        return nn.Parameter(torch.empty(self.tokens, dim).uniform_(-bound, bound))

    def _projection(self, dim: int) -> nn.Module:
        if self.project is None:
            return nn.Identity()
        linear = nn.Linear(self.project, dim)
        nn.init.kaiming_normal_(linear.weight, a=0, mode="fan_out")
        return linear

    def attach(self, model: Any) -> None:
        if not self.deep:
            dim = width(blocks(model)[0])
            at = add_prefix_tokens(model, self.tokens)
            graft(
                prompt_insertion_module(model),
                VPTInput,
                prompts=self._prompts(model, dim),
                prompt_project=self._projection(dim),
                prompt_dropout=nn.Dropout(self.dropout),
                prompt_at=at,
            )
            return
        for dim, group in groupby(self.chosen_blocks(model), key=input_width):  # one group, but for Swin's stages
            projection = self._projection(dim)
            for number, block in enumerate(group):
                found = branches(block, "attn")
                for branch in found:
                    first = branch is found[0]
                    graft(
                        branch.layer,
                        VPTAttention,
                        prompt_source=() if first else (found[0].layer,),
                        prompt_dropout=nn.Dropout(self.dropout),
                        prompt_path=(projection, branch.norm),
                        **({"prompts": self._prompts(model, dim)} if first else {}),
                        **({"prompt_project": projection} if first and number == 0 and self.project else {}),
                    )
