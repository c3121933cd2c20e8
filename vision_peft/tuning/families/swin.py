"""Swin: timm's ``swin_transformer.py``, pre-norm blocks with a table of position biases."""

from typing import Any

from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import Tensor

from vision_peft.tuning.families.windowed import WindowedFamily


class Swin(WindowedFamily):
    """Patch merging stands in front of every stage but the first, behind a norm of the four tokens side by side."""

    examples = "Swin"
    model_classes = (SwinTransformer,)
    block_classes = (SwinTransformerBlock,)
    attention_classes = (WindowAttention,)
    merging_classes = (PatchMerging,)

    def attention_bias(self, attn: Any, q: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return self.with_mask(attn._get_rel_pos_bias(), q, mask)
