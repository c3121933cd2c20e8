"""Keys and values that are learned as such, one set per block: what Prefix-Tuning and P-Tuning v2 share.

A prefix key enters attention as it is: it is not rotated (rotary embeddings) and does not pass the norm of keys
(``k_norm``), which belongs to keys that a projection made. Both papers' models have neither.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.attention import KeyValueAttention
from vision_peft.tuning.blocks import branches, width
from vision_peft.tuning.families import family_of_attention
from vision_peft.tuning.graft import graft
from vision_peft.tuning.module_input import as_input


class PrefixMLP(nn.Module):
    """Keys and values of every block from one embedding: W₂ tanh(W₁ E), with a second hidden layer if ``deep``.

    The outputs of the last layer lie as in the official codes: 2·i for the keys of block i, 2·i + 1 for its values.
    """

    def __init__(self, tokens: int, embedding: int, hidden: int, sizes: list[int], deep: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        layers: list[nn.Module] = [nn.Linear(embedding, hidden), nn.Tanh()]
        if deep:
            layers += [nn.Linear(hidden, hidden), nn.Tanh()]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(hidden, 2 * sum(sizes))
        self.starts = [2 * sum(sizes[:i]) for i in range(len(sizes) + 1)]

    def block(self, index: int) -> Tensor:
        """Keys and values (2 P D) of one block; the others are not computed."""
        rows = slice(self.starts[index], self.starts[index + 1])
        flat = F.linear(self.hidden(as_input(self.embedding.weight)), self.out.weight[rows], self.out.bias[rows])
        return flat.unflatten(-1, (2, -1)).transpose(0, 1)


class PrefixAttention(KeyValueAttention):
    """Adds this block's prefix; one for the batch, with dropout one an image."""

    prefix: nn.Parameter  # keys and values (2 P D), None where the MLP makes them
    prefix_source: tuple[PrefixMLP, int] | None  # the MLP, which lives on the first block, and this block's index
    prefix_dropout: nn.Dropout

    def extra_keys_values(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        made = self._keys_values().unsqueeze(1)
        if self.prefix_dropout.training and self.prefix_dropout.p > 0:
            made = self.prefix_dropout(made.expand(-1, x.shape[0], -1, -1))
        heads, _ = family_of_attention(self).key_value_heads(self)
        keys, values = made.unflatten(-1, (heads, -1)).transpose(2, 3)
        return [*super().extra_keys_values(x), (keys, values)]

    def bake(self) -> dict[str, Tensor | nn.Module | None]:
        if self.prefix_source is None:
            return {}
        return {"prefix": self._keys_values(), "prefix_source": None, "prefix_mlp": None}

    def _keys_values(self) -> Tensor:
        if self.prefix_source is None:
            return self.prefix
        mlp, index = self.prefix_source
        return mlp.block(index)


def attach_prefixes(
    blocks: list[Any],
    tokens: int,
    *,
    hidden: int | None,
    embedding: int | None = None,
    deep: bool = False,
    dropout: float = 0.0,
    std: float = 1.0,
) -> None:
    """Give each of ``blocks`` ``tokens`` prefixes: from one MLP with ``hidden`` units, with None directly, N(0, std²).

    What the MLP reads has ``embedding`` channels, with None as many as the first block.

    Raises:
        ValueError: keys and values cannot join the attention of this backbone, or it has prefixes already.
    """
    found = [branch.layer for block in blocks for branch in branches(block, "attn")]
    sizes = [math.prod(family_of_attention(attn).key_value_heads(attn)) for attn in found]
    first, dim = found[0], width(blocks[0])
    mlp = None if hidden is None else PrefixMLP(tokens, embedding or dim, hidden, sizes, deep)
    for index, (attn, size) in enumerate(zip(found, sizes, strict=True)):
        graft(
            attn,
            PrefixAttention,
            prefix=None if mlp else nn.Parameter(torch.randn(2, tokens, size) * std),
            prefix_source=(mlp, index) if mlp else None,
            prefix_dropout=nn.Dropout(dropout),
            prefix_mlp=mlp if attn is first else None,
        )
