"""Adapter folders of tiny tuned models on random weights of a seed, which `vp.load` makes again."""

from pathlib import Path
from typing import Any

import torch
from support.families import randomise_tuned
from support.tiny_states import NAME, TINY

import vision_peft as vp

SMALL: dict[str, Any] = {**TINY, "patch_size": 8, "img_size": 32}
INPUT = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic", "resize": "squash"}
CLASSES = ["a", "b", "ü c"]


def save_tuned(
    folder: Path,
    *methods: vp.Method,
    head: str = "linear",
    settings: Any = None,
    temperature: float | None = None,
    **arguments: Any,
) -> Path:
    """Write the adapter of a tiny tuned model of three classes; `settings` are of the input, beyond INPUT."""
    torch.manual_seed(7)
    model: Any = vp.create_backbone(NAME, **{**SMALL, **arguments})
    for method in methods or (vp.LoRA(rank=2),):
        vp.attach(model, method)
    vp.replace_head(model, head, 3)
    randomise_tuned(model)
    size = list(model.patch_embed.img_size)
    clips = {key: arguments[key] for key in ("num_frames", "tubelet_size") if key in arguments}
    settings = {"size": size, **INPUT, "crop_pct": 1.0, **clips, **(settings or {})}
    options: dict[str, Any] = {"class_names": CLASSES, "input_config": settings, "temperature": temperature}
    return vp.save_adapter(model.eval(), folder, **options)
