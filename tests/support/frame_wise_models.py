"""Tiny image models on clips, frame by frame, of families with other prefix tokens, norms and positions."""

from typing import Any

import torch
from torch import Tensor

import vision_peft as vp

T = 3
BACKBONES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {"img_size": 28, "patch_size": 14},
    "vit_base_patch16_siglip_224": {},
    "vit_small_patch16_dinov3": {},
}


def frame_wise(name: str = "vit_tiny_patch16_224", num_frames: int = T, **arguments: Any) -> Any:
    """A tiny frame-wise model in eval mode whose every parameter is random."""
    torch.manual_seed(0)
    settings = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5, "img_size": 32, "patch_size": 8}
    model = vp.create_backbone(name, num_frames=num_frames, **{**settings, **arguments})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clips(model: Any, batch: int = 2) -> Tensor:
    """A random batch (B C T H W) that fits ``model``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, model.patch_embed.num_frames, *model.patch_embed.img_size, generator=generator)
