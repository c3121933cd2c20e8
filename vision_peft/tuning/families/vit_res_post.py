"""ViT blocks with norms behind attention and MLP: ``ResPostBlock`` of timm's ``vision_transformer.py``."""

from typing import Any

from timm.models.vision_transformer import ResPostBlock
from torch import Tensor

from vision_peft.tuning.families.vit import ViT


class ResPostViT(ViT):
    """The blocks; their models are those of ``vit.py``."""

    model_classes = ()
    block_classes = (ResPostBlock,)
    attention_classes = ()
    has_input_norms = False

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.norm1(y)

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.norm2(y)
