"""Timm's VisionTransformer from its own arguments, for files whose tensors describe one that no name of timm's does."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn


def build_vit(**arguments: Any) -> nn.Module:
    """Build a VisionTransformer with fresh weights; ``arguments`` are those of timm's class."""
    return VisionTransformer(**arguments)
