"""One golden file of official code that tunes an image model: what it computed, for ours to compute again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


class Golden:
    """The frozen backbone, official tuned state, input, target, logits and gradients of one file."""

    def __init__(self, path: Path) -> None:
        with safetensors.safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["config"])
        tensors = safetensors.torch.load_file(path)
        parts = {"state": {}, "base": {}, "grad": {}}
        self.tensors = tensors
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if rest:
                parts[part][rest] = tensor
        self.state, self.base, self.gradients = parts["state"], parts["base"], parts["grad"]
        self.input, self.logits = tensors["input"], tensors["logits"]
        self.target: Any = tensors.get("target")

    def backbone(self, num_classes: int | None = None, base: Mapping[str, Tensor] | None = None) -> VisionTransformer:
        """The frozen model, or one with another head and weights."""
        classes = self.config["num_classes"] if num_classes is None else num_classes
        model = VisionTransformer(**self.config["arch"], num_classes=classes)
        model.load_state_dict(self.base if base is None else base, strict=True)
        return model.eval()
