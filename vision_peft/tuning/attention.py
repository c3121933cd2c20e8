"""Attention in which the queries also see extra keys and values, for every family of ``timm_blocks``.

VPT-deep, Prefix-Tuning and P-Tuning v2 share it; they differ in what makes the keys and values. timm's attention has
no seam there, so it is written out once, here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models import beit, eva, swin_transformer
from torch import Tensor

from vision_peft.tuning.graft import Graft
from vision_peft.tuning.timm_blocks import is_fused, separate_bias

ATTENTIONS = (Attention, AttentionRope, eva.EvaAttention, beit.Attention, swin_transformer.WindowAttention)


class KeyValueAttention(Graft):
    """softmax(Q [K_extra; K]ᵀ / √d + [0, bias]) [V_extra; V]: kinds override ``extra_keys_values`` and add theirs."""

    def extra_keys_values(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Extra keys and values for the sequence ``x`` (B N C): pairs of (1 or B, heads, P, head dim)."""
        return []

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return attend(self, x, self.extra_keys_values(x), **kwargs)


def check_attention(attn: Any) -> None:
    """Raise ValueError where extra keys and values cannot join this attention."""
    if not isinstance(attn, ATTENTIONS):
        raise ValueError(
            f"extra keys and values cannot join {type(attn).__name__}: wanted plain softmax attention "
            f"({', '.join(kind.__name__ for kind in ATTENTIONS)})"
        )


def project(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B heads N head_dim) of tokens ``x`` (B N C), normalised but not rotated.

    The layers are called, never their weights read, so that a LoRA on them acts on everything that passes here.
    """
    B, N, _ = x.shape
    if is_fused(attn):
        qkv = attn.qkv(x)
        bias = separate_bias(attn)
        qkv = qkv if bias is None else qkv + bias
        q, k, v = qkv.reshape(B, N, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        kv_heads = _kv_heads(attn)
        q = attn.q_proj(x).reshape(B, N, attn.num_heads, -1).transpose(1, 2)
        k, v = (layer(x).reshape(B, N, kv_heads, -1).transpose(1, 2) for layer in (attn.k_proj, attn.v_proj))
    if not isinstance(attn, beit.Attention | swin_transformer.WindowAttention):
        q, k = attn.q_norm(q), attn.k_norm(k)
    return q, k, v


def key_value_heads(attn: Any) -> tuple[int, int]:
    """Number of heads of keys and values, and channels of each."""
    if is_fused(attn):
        return attn.num_heads, attn.qkv.out_features // 3 // attn.num_heads
    heads = _kv_heads(attn)
    return heads, attn.k_proj.out_features // heads


def _kv_heads(attn: Any) -> int:
    return attn.num_kv_heads if isinstance(attn, AttentionRope) else attn.num_heads


def attend(attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], **kwargs: Any) -> Tensor:
    """Output (B N C) of ``attn`` on ``x`` (B N C) with ``extra`` keys and values in front of its own.

    ``kwargs`` are those that timm's blocks hand to this attention (masks, rotary embedding, shared bias). Extra keys
    are seen by every query, get no position bias and are not rotated.
    """
    B, N, _ = x.shape
    q, k, v = project(attn, x)
    rope = kwargs.get("rope")
    if rope is not None:
        q, k = (_rotate(attn, t, rope).type_as(v) for t in (q, k))
    k = torch.cat([*(pair[0].expand(B, -1, -1, -1).type_as(k) for pair in extra), k], dim=2)
    v = torch.cat([*(pair[1].expand(B, -1, -1, -1).type_as(v) for pair in extra), v], dim=2)
    bias = _bias(attn, q, **kwargs)
    if bias is not None:
        bias = F.pad(bias, (k.shape[2] - N, 0), value=bias.dtype == torch.bool)
    if isinstance(attn, AttentionRope) and attn.num_kv_groups > 1:
        k, v = (t.repeat_interleave(attn.num_kv_groups, dim=1) for t in (k, v))
    dropout = attn.attn_drop.p if attn.training else 0.0
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=attn.scale)
    y = y.transpose(1, 2).reshape(B, N, -1)
    if not isinstance(attn, beit.Attention | swin_transformer.WindowAttention):
        y = attn.norm(y)
        if attn.gate is not None:
            y = y * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(y))


def _rotate(attn: Any, t: Tensor, rope: Tensor) -> Tensor:
    prefix, patches = t[:, :, : attn.num_prefix_tokens], t[:, :, attn.num_prefix_tokens :]
    return torch.cat([prefix, apply_rot_embed_cat(patches, rope, half=attn.rotate_half)], dim=2)


def _bias(
    attn: Any,
    q: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    mask: Tensor | None = None,
    shared_rel_pos_bias: Tensor | None = None,
    rope: Tensor | None = None,
) -> Tensor | None:
    """Additive (or boolean) attention bias that broadcasts to (B heads N N), None where there is none."""
    N = q.shape[2]
    if isinstance(attn, swin_transformer.WindowAttention):
        bias = attn._get_rel_pos_bias()
        if mask is not None:  # (windows N N), the windows of one image lie next to each other in the batch
            mask = mask.repeat(q.shape[0] // mask.shape[0], 1, 1).unsqueeze(1)
            bias = bias + mask
        return bias
    if isinstance(attn, beit.Attention):
        bias = None if attn.relative_position_bias_table is None else attn._get_rel_pos_bias()
        if shared_rel_pos_bias is None:
            return bias
        return shared_rel_pos_bias if bias is None else bias + shared_rel_pos_bias
    if is_causal:
        return torch.ones(N, N, dtype=torch.bool, device=q.device).tril()
    return attn_mask
