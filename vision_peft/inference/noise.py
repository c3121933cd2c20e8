"""Inputs that nobody has to bring along: seeded noise of the shape that a model takes."""

from typing import Any

import torch
from torch import Tensor

from vision_peft.backbones import input_config

SEED = 0


def draw_inputs(model: Any, batch: int, seed: int = SEED) -> Tensor:
    """Draw `batch` inputs of a model on the CPU, the same every time: images B 3 H W, or clips B 3 T H W."""
    found = input_config(model)
    frames = [found["num_frames"]] if found.get("num_frames") else []
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, len(found["mean"]), *frames, *found["size"], generator=generator)
