"""Backbones: plain timm models and where their weights come from."""

from vision_peft.backbones.create import create_backbone, input_config

__all__ = ["create_backbone", "input_config"]
