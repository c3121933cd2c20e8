"""InternVideo2's video encoder (https://arxiv.org/abs/2403.15377) as a subclass of timm's VisionTransformer.

What timm's lacks: norms of queries and keys over the full width, before it is split into heads, and the pooling. One
query, the mean of all tokens, attends to all of them behind a LayerNorm each for queries, keys and values; a linear map
to another width and ``fc_norm`` follow. Blocks have RMSNorm, LayerScale and no bias in qkv; no norm ends them.

Source: OpenGVLab/InternVideo@3965eef InternVideo2/single_modality/models/internvideo2.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import RmsNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vision_peft.backbones.tubelet import TubeletEmbed


class FullWidthNorm(RmsNorm):
    """RMSNorm of queries or keys (B heads N h) over all heads together, in the place of timm's ``q_norm``."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.shape[1]
        return super().forward(x.transpose(1, 2).flatten(2)).unflatten(2, (heads, -1)).transpose(1, 2)


class CrossAttention(nn.Module):
    """Softmax attention of queries (B 1 D) over keys and values (B N D), mapped to another width."""

    def __init__(self, dim: int, num_heads: int, out_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(3))
        self.proj = nn.Linear(dim, out_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = (self.q(q) + self.q_bias, self.k(k) + self.k_bias, self.v(v) + self.v_bias)
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in made)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """All tokens (B N D), class token included, to one feature (B out)."""

    def __init__(self, dim: int, num_heads: int, out_dim: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(dim, eps=1e-5) for _ in range(3))
        self.cross_attn = CrossAttention(dim, num_heads, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        q = self.norm1_q(x.mean(1, keepdim=True))
        return self.cross_attn(q, self.norm1_k(x), self.norm1_v(x)).squeeze(1)


class InternVideo2(VisionTransformer):
    """The encoder for clips (B C T H W); arguments that are not named are those of timm's class.

    Args:
        num_frames: T of a clip.
        tubelet_size: frames of a patch, 1 in the published models.
        pool_heads: of the attention that pools.
        pool_dim: width of the feature that the head reads.
    """

    def __init__(
        self, *, num_frames: int, tubelet_size: int, pool_heads: int, pool_dim: int, num_classes: int, **arguments: Any
    ) -> None:
        def embed(**given: Any) -> TubeletEmbed:
            return TubeletEmbed(num_frames=num_frames, tubelet_size=tubelet_size, positions="none", **given)

        form: dict[str, Any] = {"qkv_bias": False, "final_norm": False, "pool_include_prefix": True}
        super().__init__(num_classes=0, global_pool="avg", embed_layer=embed, **form, **arguments)
        blocks: Any = self.blocks
        for block in blocks:
            block.attn.q_norm, block.attn.k_norm = (FullWidthNorm(self.embed_dim, eps=1e-6) for _ in range(2))
        self.attn_pool = AttentionPool(self.embed_dim, pool_heads, pool_dim)
        self.fc_norm = nn.LayerNorm(pool_dim)
        self.num_features = self.head_hidden_size = pool_dim
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give it a new linear layer behind its own pooling, which stays."""
        if global_pool not in (None, self.global_pool):
            raise ValueError(f"InternVideo2 pools by attention; got global_pool={global_pool!r}")
        like = self.cls_token
        assert like is not None
        head = nn.Linear(self.num_features, num_classes).to(like) if num_classes else nn.Identity()
        self.num_classes, self.head = num_classes, head.train(self.training)
