"""Counts on ViT-B/16 at 224 pixels: on the meta device, where nothing is drawn or stored."""

from typing import Any

import timm
import torch

import vision_peft as vp


def vit_base_without_weights(num_classes: int = 0) -> Any:
    """ViT-B/16 whose parameters have shapes and no storage."""
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=num_classes)


def count_on_vit_base(method: vp.Method) -> vp.Counts:
    """The parameters of ``method`` on ViT-B/16 without a head."""
    with torch.device("meta"):
        return vp.count_parameters(vp.attach(vit_base_without_weights(), method))
