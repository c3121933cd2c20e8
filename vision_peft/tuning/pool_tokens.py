"""Features of images other than those that the head reads: the class token, or the mean of the patch tokens."""

from typing import Any

from torch import Tensor

from vision_peft.tuning.families import family_of
from vision_peft.tuning.head_maps import reads_maps

POOLED = ("class", "patches")


def check_pooling(model: Any, which: str) -> None:
    """Raise ValueError where ``model`` has no tokens of that name."""
    if which not in POOLED:
        raise ValueError(f"tokens to pool are {' or '.join(POOLED)}, got {which!r}")
    if which == "class" and not has_class_token(model):
        raise ValueError(f"this {type(model).__name__} has no class token: take the features 'patches' or 'head'")


def pool_tokens(model: Any, images: Tensor, which: str) -> Tensor:
    """Return the class token, or the mean of the patch tokens, behind the last block and its norms.

    Registers, prompts and the distillation token count as neither. A norm that timm puts behind its pooling stands
    behind this one, too. Under a head for maps they are the tokens of the backbone all the same. Of clips that are
    encoded frame by frame it is the mean over the frames, of an ensemble of prompts the mean over its members.

    Args:
        model: any timm model, with methods or without.
        images: B 3 H W, or clips B 3 T H W.
        which: ``class`` or ``patches``.

    Returns:
        B D.
    """
    check_pooling(model, which)
    family = family_of(model)
    features = model.own_features(images) if reads_maps(model) else model.forward_features(images)
    tokens = family.as_sequence(model, features)
    prefix = max(family.prefix_tokens(model), int(has_class_token(model)))
    pooled = tokens[:, 0] if which == "class" else tokens[:, prefix:].mean(1)
    for norm in family.final_norms(model)[1:]:
        pooled = norm(pooled)
    if len(pooled) > len(images):
        pooled = _average(model, pooled, len(images))
    return pooled


def _average(model: Any, pooled: Tensor, images: int) -> Tensor:
    """Average the rows of each image: frames of a clip follow each other, members of an ensemble lie a batch apart."""
    members = 1 if (vote := getattr(model, "prompt_vote", None)) is None else vote.ensemble
    return pooled.unflatten(0, (members, images, -1)).mean((0, 2))


def has_class_token(model: Any) -> bool:
    """Tell whether a class token is the first of the tokens of ``model``."""
    owners = (model, getattr(model, "embeds", None))  # timm's NaFlexViT has it in its embedding
    return any(getattr(owner, "cls_token", None) is not None for owner in owners)
