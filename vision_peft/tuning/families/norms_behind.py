"""Blocks with norms behind attention and MLP in place of those in front."""

from typing import Any

from torch import Tensor


class NormsBehind:
    """What families of such blocks share; it stands before the family whose attention they have."""

    model_classes = ()  # the models are those of that family
    attention_classes = ()
    has_input_norms = False

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.norm1(y)

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.norm2(y)
