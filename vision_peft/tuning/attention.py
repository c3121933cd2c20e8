"""Attention in which the queries also see extra keys and values, for every family.

VPT-deep, Prefix-Tuning and P-Tuning v2 share it; they differ in what makes the keys and values. timm's attention has
no seam there, so it is written out, in ``Family.attend``.
"""

from typing import Any

from torch import Tensor

from vision_peft.tuning.blocks import blocks, branches
from vision_peft.tuning.families import family_of_attention
from vision_peft.tuning.graft import Graft
from vision_peft.tuning.needs import Need


class KeyValueAttention(Graft):
    """softmax(Q [K_extra; K]ᵀ / √d + [0, bias]) [V_extra; V]: kinds override ``extra_keys_values`` and add theirs."""

    token_wise = True

    def extra_keys_values(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Make extra keys and values for the sequence ``x`` (B N C): pairs of (1 or B, heads, P, head dim)."""
        return []

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return attend(self, x, self.extra_keys_values(x), *args, **kwargs)


def check_keys_values(model: Any) -> None:
    """Check that extra keys and values can join the attention of every block.

    Raises:
        ValueError: attention of a class that they cannot join.
    """
    for block in blocks(model):
        for branch in branches(block, "attn"):
            family_of_attention(branch.layer)


KEYS_VALUES = Need("attention that extra keys and values can join", check_keys_values)


def project(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values (B heads N head_dim) of tokens ``x`` (B N C), as they enter ``attend``."""
    return family_of_attention(attn).project(attn, x)


def attend(attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> Any:
    """Compute the output (B N C) of ``attn`` on ``x`` (B N C) with ``extra`` keys and values in front of its own.

    ``args`` and ``kwargs`` are those that timm's blocks hand to this attention (masks, rotary embedding, shared bias);
    with ``queries`` among them only the first so many tokens ask, and the output is B queries C.
    Extra keys are seen by every query, get no position bias and are not rotated.
    """
    return family_of_attention(attn).attend(attn, x, extra, *args, **kwargs)
