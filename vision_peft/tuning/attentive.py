"""Heads that read tokens (B N D) in place of pooled features: attention of learned queries, then a linear layer.

Efficient probing (Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency",
https://arxiv.org/abs/2506.10178; official: billpsomas/efficient-probing, poolings/ep.py and probe_heads.py):

    a_j = softmax_n(q_j · x_n / √D)        z = concat_j Σ_n a_jn (W x_n)[channels of j]        logits = W_c BN(z) + b

Keys are the raw tokens: nothing projects them. The sum over tokens stands before the projection here, which is the same
function at about a fifth of the cost. BatchNorm has no affine parameters and eps 1e-6.

V-JEPA 2's attentive classifier (Assran et al., 2025, https://arxiv.org/abs/2506.09985; official: facebookresearch/
vjepa2, src/models/attentive_pooler.py): depth - 1 pre-norm blocks over the tokens, then of one learned query q

    q += softmax((W_q q) · (W_k LN(x)) / √d) W_v LN(x)        q += MLP(LN(q))        logits = W_c q + b

The query is not normed and attention has no output projection, as in that code. Deviations: none known; the official
code never calls the final norm of its own ViT under EP, which here is the option ``norm``.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from vision_peft.tuning.head_kinds import Attentive, AttentivePooler, TokenHead

EPS = 1e-5  # of LayerNorm in V-JEPA 2's pooler; that of its encoder is 1e-6


class EfficientPool(nn.Module):
    """Tokens (B N D) to pooled features (B D / reduce)."""

    def __init__(self, dim: int, kind: Attentive) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(kind.queries, dim))
        self.value = nn.Linear(dim, dim // kind.reduce, bias=False)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        count, dim = self.queries.shape
        scores = (self.queries * dim**-0.5) @ tokens.transpose(1, 2)  # B Q N
        pooled = scores.softmax(-1) @ tokens  # B Q D
        slices = self.value.weight.unflatten(0, (count, -1))  # Q D/(Q·reduce) D
        return (pooled.transpose(0, 1) @ slices.transpose(1, 2)).transpose(0, 1).flatten(1)


class SelfAttention(nn.Module):
    """Attention of tokens (B N D) to one another."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SelfAttentionBlock(nn.Module):
    """A pre-norm block of the tokens (B N D)."""

    def __init__(self, dim: int, kind: AttentivePooler) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = SelfAttention(dim, kind.heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * kind.mlp_ratio))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class CrossAttention(nn.Module):
    """Attention of queries (B Q D) to tokens (B N D), without a projection of what it gives."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class CrossAttentionBlock(nn.Module):
    """Cross-attention with a norm of the tokens, then an MLP, each added to the queries."""

    def __init__(self, dim: int, kind: AttentivePooler) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.xattn = CrossAttention(dim, kind.heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * kind.mlp_ratio))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


class AttentivePool(nn.Module):
    """Tokens (B N D) to ``queries`` vectors (B queries D)."""

    def __init__(self, dim: int, kind: AttentivePooler, queries: int = 1) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.empty(1, queries, dim))
        self.blocks = nn.ModuleList(SelfAttentionBlock(dim, kind) for _ in range(kind.depth - 1))
        cross = CrossAttentionBlock(dim, kind) if kind.complete else CrossAttention(dim, kind.heads)
        self.cross_attention_block = cross
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.cross_attention_block(self.query_tokens.expand(tokens.shape[0], -1, -1), tokens)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw σ = 0.02; what ends a residual branch of block i is divided by √(2 i), counted from 1.

        The cross-attention has the number of the last block before it, as in that code, and 1 where there is none.
        """
        nn.init.trunc_normal_(self.query_tokens, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        blocks: list[Any] = [*self.blocks]
        ends = [[block.attn.proj, block.mlp.fc2] for block in blocks]
        for number, layers in enumerate(ends, start=1):
            for layer in layers:
                layer.weight /= math.sqrt(2 * number)
        if isinstance(self.cross_attention_block, CrossAttentionBlock):
            self.cross_attention_block.mlp.fc2.weight /= math.sqrt(2 * max(len(ends), 1))


class AttentiveHead(nn.Module):
    """Tokens (B N D) to logits (B classes): ``pool``, then ``classifier`` of the pooled features.

    Raises:
        ValueError: queries or attention heads that do not divide the width.
    """

    def __init__(self, dim: int, num_classes: int, kind: TokenHead) -> None:
        super().__init__()
        check_width(dim, kind)
        self.kind = kind
        if isinstance(kind, Attentive):
            pooled = dim // kind.reduce
            self.pool: nn.Module = EfficientPool(dim, kind)
            self.classifier: nn.Module = nn.Sequential(
                nn.BatchNorm1d(pooled, affine=False, eps=1e-6), nn.Linear(pooled, num_classes)
            )
        else:
            assert isinstance(kind, AttentivePooler)
            self.pool, self.classifier = AttentivePool(dim, kind), nn.Linear(dim, num_classes)
            nn.init.trunc_normal_(self.classifier.weight, std=0.02)
            nn.init.zeros_(self.classifier.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = self.pool(tokens)
        return self.classifier(pooled if pooled.ndim == 2 else pooled.squeeze(1))


def check_width(dim: int, kind: TokenHead) -> None:
    """Raise ValueError where a head of this kind does not fit features of width ``dim``."""
    if isinstance(kind, Attentive) and dim % (kind.reduce * kind.queries):
        raise ValueError(
            f"an attentive head cuts {dim} channels into reduce * queries = {kind.reduce} * {kind.queries} parts: give "
            f"queries and reduce that divide {dim}"
        )
    if isinstance(kind, AttentivePooler) and dim % kind.heads:
        raise ValueError(
            f"{kind.heads} heads of an attentive_pooler do not divide {dim} channels: give a number of heads that does"
        )


def time_table(steps: int, dim: int) -> Tensor:
    """Return fixed sines of time (steps dim): the first half of the channels sin(t / 10000^(2i/dim)), then cosines."""
    rate = 10000 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = torch.arange(steps, dtype=torch.float64).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], 1).float()
