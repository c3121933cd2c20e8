"""Backbones: plain timm models and where their weights come from."""

from vision_peft.backbones.create import create_backbone, input_config
from vision_peft.backbones.provenance import backbone_name

__all__ = ["backbone_name", "create_backbone", "input_config"]
