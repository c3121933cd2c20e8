"""Adapter folders of tiny models that answer for every pixel."""

from pathlib import Path
from typing import Any

import torch
from support.families import randomise_tuned
from support.tiny_states import NAME, TINY

import vision_peft as vp

INPUT: dict[str, Any] = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
SEGMENTATION = {"kind": "segmentation"}


def save_maps(folder: Path, task: dict[str, Any] | None = None, head: str = "seg_linear", **settings: Any) -> Path:
    """Write the adapter of a model of masks of two classes, or with `task` (of depth) of one number a pixel."""
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, img_size=32, patch_size=8, **TINY)
    vp.attach(model, vp.LoRA(rank=2))
    task = task or SEGMENTATION
    classes = ["land", "water"] if task["kind"] == "segmentation" else ["depth"]
    vp.replace_head(model, head, len(classes))
    randomise_tuned(model)
    described: dict[str, Any] = {"class_names": classes, "input_config": {**INPUT, **settings}, "task": task}
    return vp.save_adapter(model.eval(), folder, **described)
