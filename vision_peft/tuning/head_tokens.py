"""What a head reads in place of timm's pooled features: the tokens behind the last block, or another pooling of them.

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
from vision_peft.tuning.head_kinds import CLASS_MEAN, TokenHead
from vision_peft.tuning.pool_tokens import has_class_token


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


class ClassAndMean(HeadGraft):
    """A timm model whose head gets the class token and the mean of the patch tokens (B 2·D); of frames, their mean."""

    token_source: TokenSource

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        source = self.token_source
        tokens = source.family.as_sequence(self, x)
        prefix = max(source.family.prefix_tokens(self), 1)
        parts = [tokens[:, 0], tokens[:, prefix:].mean(1)]
        for norm in source.family.final_norms(self)[1:]:
            parts = [norm(part) for part in parts]
        pooled = torch.cat(parts, 1)
        if source.frames > 1:
            pooled = pooled.unflatten(0, (-1, source.frames)).mean(1)
        if pre_logits:
            return pooled
        logits = [self.get_submodule(name)(pooled) for name in source.heads]
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)


class ClassMeanLinear(nn.Linear):
    """The linear layer behind ``ClassAndMean``, so that a model says which head it has."""


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


def check_class_and_mean(model: Any) -> None:
    """Raise ValueError where ``model`` has no class token, or no `forward_head` in whose place the two are pooled."""
    if not hasattr(model, "forward_head"):
        raise ValueError(f"{type(model).__name__} has no forward_head of timm's, in whose place tokens are pooled")
    if not has_class_token(model):
        raise ValueError(
            f"head={CLASS_MEAN} reads the class token, and this {type(model).__name__} has none: head=linear reads the "
            "mean of its patches"
        )


def give_class_and_mean(model: Any) -> None:
    """Have the classification layers of ``model`` called with the class token and the mean of the patches."""
    source = TokenSource(family_of(model), classifier_names(model), False, frames_in_batch(model), 1)
    graft_innermost(model, ClassAndMean, token_source=source)


def take_tokens_back(model: nn.Module) -> None:
    """Undo ``give_tokens`` and ``give_class_and_mean``; what methods grafted stays."""
    for module in list(model.modules()):
        if any(issubclass(kind, HeadGraft) for kind in kinds(module)):
            push_grafts(module, split_head_grafts(pop_grafts(module))[1])


def _count_steps(model: Any) -> int:
    embed = getattr(model, "patch_embed", None)
    frames = getattr(embed, "num_frames", 1)
    return frames // (getattr(embed, "tubelet_size", None) or 1)
