"""Recomputing a part of every block in the backward pass, in place of keeping what it would need: less memory.

Gradients are those without it, bit for bit on a CPU: the part runs again on the same input, under the same autocast and
with the same random numbers (dropout, drop-path), and stops where the last tensor is there that the backward pass
reads. So a frozen ``fc2``, or ``proj``, does not run twice, nor one with an update beside it. A method with autograd
functions of its own runs plain operations in the part, whose gradients are rounded otherwise. Where nothing needs a
gradient (below the first block that is tuned, without grad mode) nothing is kept, and nothing runs twice.

What the methods graft onto a whole block, or onto the drop-path behind an MLP, stays outside of the part; what they
graft into it is recomputed with it.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import BlockGraft, blocks, mlp_half
from vision_peft.tuning.graft import graft_innermost, kinds, pop_grafts, push_grafts
from vision_peft.tuning.method import one_of

MODES = ("none", "mlp", "attention", "block")
_run_again: Any = partial(checkpoint, use_reentrant=False)  # for the backward pass; of a function and its input


def _has_backward(block: nn.Module, *inputs: Any) -> bool:
    """Tell whether the backward pass goes through ``block``; where it does not, ``checkpoint`` costs and saves none."""
    tensors = [each for each in inputs if isinstance(each, Tensor)]
    return torch.is_grad_enabled() and any(each.requires_grad for each in [*tensors, *block.parameters()])


class RecomputedMLP(BlockGraft):
    """A block that keeps the input of its half with the MLP, and not what is inside up to the drop-path."""

    adds_nothing = True
    of_method = False
    token_wise = True

    def mlp_half(self, x: Tensor) -> Tensor:
        return mlp_half(self, x, _run_again if _has_backward(self, x) else None)

    def fold(self) -> None:
        """Nothing was added to the weights."""


class RecomputedAttention(BlockGraft):
    """A block that keeps the input of its half with attention and not what is inside."""

    adds_nothing = True
    of_method = False
    token_wise = True

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        if not _has_backward(self, x, *kwargs.values()):
            return super().attn_half(x, **kwargs)
        return _run_again(super().attn_half, x, **kwargs)

    def fold(self) -> None:
        """Nothing was added to the weights."""


_KINDS = {"mlp": RecomputedMLP, "attention": RecomputedAttention}


def set_recompute(model: Any, part: str) -> nn.Module:
    """Recompute a part of every block of ``model`` in the backward pass.

    Call it after ``attach``; ``detach`` and ``merge`` give the plain model back, also in this.

    Args:
        model: a timm model, usually with methods attached.
        part: ``none``; ``mlp`` or ``attention``: that half of a block; ``block``: whole blocks, by timm's own
            ``set_grad_checkpointing``, which in models without transformer blocks takes their stages.

    Returns:
        The same model.

    Raises:
        ValueError: another part, or a model that has no such part.
    """
    one_of("recompute", part, MODES)
    if part in _KINDS and not has_blocks(model):
        raise ValueError(
            f"recompute={part} is of transformer blocks, which {type(model).__name__} does not have: give "
            "recompute=block, "
            "which recomputes its stages, or recompute=none"
        )
    modes = {module: module.training for module in model.modules()}  # grafts take that of their block
    for block in blocks(model) if has_blocks(model) else []:
        if any(kind in kinds(block) for kind in _KINDS.values()):
            push_grafts(block, [entry for entry in pop_grafts(block) if entry[0] not in _KINDS.values()])
        if part in _KINDS:
            graft_innermost(block, _KINDS[part])
    for module, training in modes.items():
        module.training = training
    try:
        model.set_grad_checkpointing(part == "block")
    except (AttributeError, AssertionError):
        if part == "block":
            raise ValueError(
                f"recompute=block: timm's {type(model).__name__} does not recompute its blocks: give recompute=none"
            ) from None
    return model
