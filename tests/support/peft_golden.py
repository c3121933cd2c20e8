"""What HF peft computed on a tiny timm ViT, read from the folders of golden files."""

from pathlib import Path
from typing import Any

import safetensors.torch
from timm.models import VisionTransformer
from torch import Tensor

_OURS = {
    "base_model.model.": "",
    "modules_to_save.default.": "",
    "lora_A.default.weight": "lora.A",
    "lora_B.default.weight": "lora.B",
    "lora_B.default.bias": "lora.bias",
    "lora_A.default": "adalora.A",
    "lora_B.default": "adalora.B",
    "lora_E.default": "adalora.E",
    "vera_lambda_b.default": "vera.b",
    "vera_lambda_d.default": "vera.d",
}


def read_golden(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "golden.safetensors")


def golden_model(golden: dict[str, Tensor]) -> Any:
    """The backbone with its original weights."""
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=40, depth=2, num_heads=4, mlp_ratio=2.0, num_classes=5
    )
    model.load_state_dict(by_our_names(golden, "base/"))
    return model.eval()


def by_our_names(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors under `prefix`, as our tuned state names them."""
    found = {}
    for key, tensor in golden.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for theirs, ours in _OURS.items():
                name = name.replace(theirs, ours)
            found[name] = tensor
    return found
