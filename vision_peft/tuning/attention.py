"""Attention in which the queries also see extra keys and values, for every family.

VPT-deep, Prefix-Tuning and P-Tuning v2 share it; they differ in what makes the keys and values. timm's attention has
no seam there, so it is written out once, here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vision_peft.tuning.families import family_of_attention
from vision_peft.tuning.graft import Graft


class KeyValueAttention(Graft):
    """softmax(Q [K_extra; K]ᵀ / √d + [0, bias]) [V_extra; V]: kinds override ``extra_keys_values`` and add theirs."""

    def extra_keys_values(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Make extra keys and values for the sequence ``x`` (B N C): pairs of (1 or B, heads, P, head dim)."""
        return []

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return attend(self, x, self.extra_keys_values(x), **kwargs)


def project(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values (B heads N head_dim) of tokens ``x`` (B N C), as they enter ``attend``."""
    return family_of_attention(attn).project(attn, x)


def attend(attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], **kwargs: Any) -> Tensor:
    """Compute the output (B N C) of ``attn`` on ``x`` (B N C) with ``extra`` keys and values in front of its own.

    ``kwargs`` are those that timm's blocks hand to this attention (masks, rotary embedding, shared bias). Extra keys
    are seen by every query, get no position bias and are not rotated.
    """
    family = family_of_attention(attn)
    B, N, _ = x.shape
    q, k, v = family.project(attn, x)
    if kwargs.get("rope") is not None:
        q, k = (family.rotate(attn, t, kwargs["rope"]).type_as(v) for t in (q, k))
    k = torch.cat([*(pair[0].expand(B, -1, -1, -1).type_as(k) for pair in extra), k], dim=2)
    v = torch.cat([*(pair[1].expand(B, -1, -1, -1).type_as(v) for pair in extra), v], dim=2)
    bias = family.attention_bias(attn, q, **kwargs)
    if bias is not None:
        shown = True if bias.dtype == torch.bool else family.bias_without_position
        bias = F.pad(bias, (k.shape[2] - N, 0), value=shown)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    q, k, scale = family.scale_scores(attn, q, k)
    dropout = attn.attn_drop.p if attn.training else 0.0
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
    y = family.attention_output(attn, x, y.transpose(1, 2).flatten(2))
    return attn.proj_drop(attn.proj(y))
