"""ViT blocks with norms behind attention and MLP: ``ResPostBlock`` of timm's ``vision_transformer.py``."""

from timm.models.vision_transformer import ResPostBlock

from vision_peft.tuning.families.norms_behind import NormsBehind
from vision_peft.tuning.families.vit import ViT


class ResPostViT(NormsBehind, ViT):
    """The blocks; their models are those of ``vit.py``."""

    block_classes = (ResPostBlock,)
