"""Tiny video ViTs by tubelets, the image models that they are inflated from, and clips for them."""

from typing import Any

import timm
import torch
from support.tiny_states import NAME, TINY, random_state
from torch import Tensor

from vision_peft.backbones import create_backbone
from vision_peft.backbones.tubelet import inflate

SMALL: dict[str, Any] = {**TINY, "img_size": (16, 24), "patch_size": 8}  # a grid of 2 x 3
CLIP: dict[str, Any] = {"num_frames": 4, "tubelet_size": 2}


def clip(batch: int = 2, frames: int = 4, seed: int = 1) -> Tensor:
    """A random clip (B 3 T H W) of the size SMALL."""
    return torch.randn(batch, 3, frames, 16, 24, generator=torch.Generator().manual_seed(seed))


def video(**arguments: Any) -> Any:
    """VideoMAE's form in eval mode."""
    torch.manual_seed(0)
    return create_backbone(NAME, **{**SMALL, **CLIP, **arguments}).eval()


def image_model(**arguments: Any) -> Any:
    """An image model in which no tensor has its initial value."""
    model = timm.create_model(NAME, **{**SMALL, "num_classes": 0, **arguments})
    model.load_state_dict(random_state(**{**SMALL, "num_classes": 0, **arguments}))
    return model.eval()


def inflated(how: str = "average", frames: int = 4, tubelet: int = 2, **arguments: Any) -> Any:
    """`image_model` inflated."""
    return inflate(image_model(**arguments), frames, tubelet, how)
