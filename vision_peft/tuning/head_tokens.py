"""What an attentive head reads: the tokens behind the last block, in place of timm's pooled features.

A graft on the model takes the place of ``forward_head``. Frames that a frame-wise model folds into the batch stand one
behind the other again (B T·N D), so that the head sees all of a clip.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning.attentive import check_width, time_table
from vision_peft.tuning.backbone import classifier_names, frames_in_batch
from vision_peft.tuning.families import family_of
from vision_peft.tuning.families.family import Family
from vision_peft.tuning.graft import HeadGraft, graft_innermost, kinds, pop_grafts, push_grafts, split_head_grafts
from vision_peft.tuning.head_kinds import TokenHead


@dataclass(frozen=True)
class TokenSource:
    """How the tokens of a model reach its head."""

    family: Family
    heads: tuple[str, ...]  # names of the classification layers
    prefix: bool  # class token, registers and prompts too
    frames: int  # that stand in the batch
    steps: int  # of time that are told from one another; 1: none


class TokensToHead(HeadGraft):
    """A timm model whose head gets tokens (B N D); of two heads the mean counts, as in a distilled model."""

    token_source: TokenSource

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        source = self.token_source
        tokens = source.family.as_sequence(self, x)
        for norm in source.family.final_norms(self)[1:]:
            tokens = norm(tokens)
        prefix, patches = tokens.tensor_split([source.family.prefix_tokens(self)], dim=1)
        if source.frames > 1:
            prefix, patches = (part.unflatten(0, (-1, source.frames)).flatten(1, 2) for part in (prefix, patches))
        if source.steps > 1:
            table = time_table(source.steps, patches.shape[-1]).to(patches).unsqueeze(1)
            patches = (patches.unflatten(1, (source.steps, -1)) + table).flatten(1, 2)
        tokens = torch.cat([prefix, patches], 1) if source.prefix else patches
        if pre_logits:
            return tokens
        logits = [self.get_submodule(name)(tokens) for name in source.heads]
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)


class SkippedNorm(HeadGraft):
    """A final norm that leaves tokens as the last block made them; methods grafted onto it act all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class NormOfFrames(HeadGraft):
    """A final norm that would take the mean over time first, and norms the tokens of every frame instead."""

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = nn.LayerNorm
        return norm.forward(self, x)


def check_tokens(model: Any, head: TokenHead) -> None:
    """Raise ValueError where ``head`` does not fit the width of ``model``, or needs the time that it does not have."""
    if not hasattr(model, "forward_head"):
        raise ValueError(f"{type(model).__name__} has no forward_head of timm's, in whose place tokens reach the head")
    check_width(model.num_features, head)
    if head.time != "none" and _count_steps(model) == 1:
        one = f"{type(model).__name__} has one time step"
        raise ValueError(f"time={head.time} tells the frames of a clip apart, and {one}: leave it out")


def give_tokens(model: Any, head: TokenHead) -> None:
    """Have the classification layers of ``model`` called with tokens from now on."""
    family = family_of(model)
    source = TokenSource(
        family,
        classifier_names(model),
        head.tokens == "all",
        frames_in_batch(model),
        _count_steps(model) if head.time != "none" else 1,
    )
    graft_innermost(model, TokensToHead, token_source=source)
    for norm in family.final_norms(model):
        if isinstance(norm, nn.Identity):
            continue
        if not head.norm:
            graft_innermost(norm, SkippedNorm)
        elif getattr(getattr(model, "patch_embed", None), "mean_first", False):
            graft_innermost(norm, NormOfFrames)


def take_tokens_back(model: nn.Module) -> None:
    """Undo ``give_tokens``; what methods grafted stays."""
    for module in list(model.modules()):
        if any(issubclass(kind, HeadGraft) for kind in kinds(module)):
            push_grafts(module, split_head_grafts(pop_grafts(module))[1])


def _count_steps(model: Any) -> int:
    embed = getattr(model, "patch_embed", None)
    frames = getattr(embed, "num_frames", 1)
    return frames // (getattr(embed, "tubelet_size", None) or 1)
