"""Places of the image for tokens that are no patches: the frozen position embeddings of chosen patches.

Attention does not know the order of a sequence: a token stands somewhere only by its position embedding. Input tokens
therefore stay behind the prefix tokens, where pooling leaves them out and patches keep their grid, and get a place.
"""

from typing import Any

import torch
from timm.models import vision_transformer
from torch import Tensor, nn


class Places(nn.Module):
    """Position embeddings (1 P C) of P patches; the table stays the backbone's own parameter."""

    index: Tensor

    def __init__(self, positions: nn.Parameter, index: list[int]) -> None:
        super().__init__()
        self.positions = (positions,)  # in a tuple, so that it is not registered a second time
        self.register_buffer("index", torch.tensor(index), persistent=False)

    def forward(self) -> Tensor:
        return self.positions[0][:, self.index]


def places(model: Any, tokens: int, where: str) -> Places:
    """The places of ``tokens`` input tokens, in reading order of the patches.

    Args:
        model: a timm vision transformer.
        tokens: number of tokens, at most that of patches.
        where: ``end`` takes the last patches, ``interleaved`` spreads the tokens evenly over all of them.

    Raises:
        ValueError: too many tokens, or a backbone that tells places in another way.
    """
    name = type(model).__name__
    if not isinstance(model, vision_transformer.VisionTransformer):
        raise ValueError(
            f"{name} tells places by rotary embeddings or position biases, which input tokens do not get: wanted "
            'positions="start"'
        )
    if model.pos_embed is None:
        raise ValueError(
            f"this {name} holds no positions: they are fixed in its patch embedding, or there are none. Wanted "
            'positions="start"'
        )
    if not isinstance(model.norm_pre, nn.Identity):
        raise ValueError(
            f"this {name} normalises a patch and its place together before input tokens can join (norm_pre): wanted "
            'positions="start"'
        )
    if model.dynamic_img_size:
        raise ValueError(f"this {name} resizes positions at every forward: create it with a fixed img_size")
    patches = model.patch_embed.num_patches
    if tokens > patches:
        raise ValueError(
            f'positions="{where}" takes a patch for every token: wanted at most {patches} tokens, got {tokens}'
        )
    first = model.pos_embed.shape[1] - patches  # class and register tokens may have positions of their own
    if where == "end":
        chosen = range(patches - tokens, patches)
    else:
        chosen = ((2 * i + 1) * patches // (2 * tokens) for i in range(tokens))
    return Places(model.pos_embed, [first + i for i in chosen])
