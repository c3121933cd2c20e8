"""One golden file of official code that tunes an image model: what it computed, for ours to compute again."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from timm.models.vision_transformer import VisionTransformer


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

    def backbone(self) -> VisionTransformer:
        model = VisionTransformer(**self.config["arch"], num_classes=self.config["num_classes"])
        model.load_state_dict(self.base, strict=True)
        return model.eval()
