"""The config of a training that takes a second: a two-block ViT on 32 pixels with random weights."""

from pathlib import Path

from vision_peft.training.command_line import compose_config
from vision_peft.training.config import Config

TINY = [
    "backbone=timm",
    "backbone.name=vit_tiny_patch16_224",
    "backbone.pretrained=false",
    "backbone.img_size=32",
    "backbone.kwargs.depth=2",
    "backbone.kwargs.embed_dim=24",
    "recipe.epochs=2",
    "recipe.batch_size=8",
    "device=cpu",
    "workers=0",
]


def tiny_config(photos: Path, output_dir: Path, *overrides: str) -> Config:
    """The config of a tiny run."""
    return compose_config([*TINY, "data=folder", f"data.root={photos}", f"output_dir={output_dir}", *overrides])
