"""MViT v2: timm's ``mvitv2.py``, a sequence of patches (B N C), with a class token or without, on a grid that shrinks.

Attention pools queries, keys and values over the grid; the first block of a stage widens in its attention. Blocks are
given the size of the grid and return it.
"""

from typing import Any

import torch
from timm.models.mvitv2 import (
    MultiScaleAttention,
    MultiScaleBlock,
    MultiScaleVit,
    cal_rel_pos_type,
    reshape_post_pool,
    reshape_pre_pool,
)
from torch import Tensor, nn

from vision_peft.tuning.families.hierarchical import HierarchicalFamily
from vision_peft.tuning.graft import HeadGraft, kinds


class MViTv2(HierarchicalFamily):
    """Pre-norm blocks; norms of pooled queries, keys and values, relative positions, the pooled queries join values.

    Extra keys and values are not pooled, as the class token is not.
    """

    examples = "MViTv2"
    model_classes = (MultiScaleVit,)
    block_classes = (MultiScaleBlock,)
    attention_classes = (MultiScaleAttention,)
    has_grid = False

    def covers(self, model: Any) -> bool:
        """Leave those that widen in the MLP or pool in front of queries and keys to the family of the rest."""
        return super().covers(model) and all(
            isinstance(block.attn, MultiScaleAttention) and block.shortcut_proj_mlp is None
            for stage in model.stages
            for block in stage.blocks
        )

    def stages(self, model: Any) -> list[list[Any]]:
        return [list(stage.blocks) for stage in model.stages]

    def final_norms(self, model: Any) -> list[nn.Module]:
        return [model.norm]

    def reads_class_token_only(self, model: Any) -> bool:
        return model.global_pool == "token" and not any(issubclass(kind, HeadGraft) for kind in kinds(model))

    def prefix_tokens(self, model: Any) -> int:
        return model.num_prefix_tokens

    def input_width(self, block: Any) -> int:
        return block.dim

    def enter(self, x: Tensor, feat_size: Any) -> tuple[Tensor, dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x, {"feat_size": feat_size}

    def attn_half(self, block: Any, x: Tensor, feat_size: Any = None, **kwargs: Any) -> Tensor:
        y = block.norm1(x)
        shortcut = x if block.shortcut_proj_attn is None else block.shortcut_proj_attn(y)
        y, _ = block.attn(y, feat_size)
        return block._shortcut_pool(shortcut, feat_size) + block.drop_path1(y)

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return y

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return y

    def block_end(self, block: Any, x: Tensor, feat_size: Any = None, **kwargs: Any) -> Any:
        pool = block.attn.pool_q
        if pool is None:
            return x, feat_size
        sizes = zip(feat_size, pool.padding, pool.kernel_size, pool.stride, strict=True)
        return x, [(size + 2 * padding - kernel) // stride + 1 for size, padding, kernel, stride in sizes]

    def project(self, attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(attn, x)
        k, v = (t if norm is None else norm(t) for t, norm in ((k, attn.norm_k), (v, attn.norm_v)))
        return q, k, v

    def attend(self, attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> Any:
        (feat_size,) = args
        q, k, v = super().project(attn, x)
        q, q_size = _pool(attn, q, feat_size, attn.pool_q, attn.norm_q)
        k, k_size = _pool(attn, k, feat_size, attn.pool_k, attn.norm_k)
        v, _ = _pool(attn, v, feat_size, attn.pool_v, attn.norm_v)
        scores = (q * attn.scale) @ k.transpose(-2, -1)
        if attn.rel_pos_type == "spatial":
            scores = cal_rel_pos_type(scores, q, attn.has_cls_token, q_size, k_size, attn.rel_pos_h, attn.rel_pos_w)
        ahead = [(q * attn.scale) @ keys.type_as(q).transpose(-2, -1) for keys, _ in extra]
        values = [pair[1].expand(x.shape[0], -1, -1, -1).type_as(v) for pair in extra]
        y = torch.cat([*ahead, scores], dim=-1).softmax(dim=-1) @ torch.cat([*values, v], dim=2)
        if attn.residual_pooling:
            y = y + q
        return attn.proj(y.transpose(1, 2).flatten(2)), q_size


def _pool(attn: Any, t: Tensor, size: Any, pool: Any, norm: Any) -> tuple[Tensor, Any]:
    """Pool ``t`` (B heads N C) on a grid of ``size`` as timm does, around a class token; also its new grid."""
    if pool is not None:
        t, token = reshape_pre_pool(t, size, attn.has_cls_token)
        t, size = reshape_post_pool(pool(t), attn.num_heads, token)
    return t if norm is None else norm(t), size
