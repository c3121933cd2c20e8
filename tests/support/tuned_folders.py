"""Adapter folders of tiny tuned models, which `vp.load` makes again.

Weights as timm draws them give logits that hardly depend on the image: those here lie beside the adapter, and are such
that another image, another size or other pixels are felt.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from support.families import attach, randomise_tuned
from support.tiny_states import NAME, TINY
from torch import Tensor

import vision_peft as vp
from vision_peft.backbones import provenance
from vision_peft.formats.backbone_record import BACKBONE

SMALL: dict[str, Any] = {**TINY, "patch_size": 8, "img_size": 32}
INPUT = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic", "resize": "squash"}
CLASSES = ["a", "b", "ü c"]


def save_tuned(
    folder: Path,
    *methods: vp.Method,
    head: str = "linear",
    settings: Any = None,
    temperature: float | None = None,
    seeded: bool = False,
    task: dict[str, Any] | None = None,
    **arguments: Any,
) -> Path:
    """Write the adapter of a tiny tuned model of three classes; `settings` are of the input, beyond INPUT.

    The backbone's weights lie beside it; with `seeded` they are those that timm draws, and nothing but the adapter is
    written.
    """
    torch.manual_seed(7)
    arguments = {**SMALL, **arguments}
    beside = not seeded and "checkpoint" not in arguments
    if beside:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_draw_felt_weights(arguments), folder / BACKBONE)
        arguments["checkpoint"] = folder / BACKBONE
    model: Any = vp.create_backbone(NAME, **arguments)
    if beside:
        provenance.note_arguments(model, {**(provenance.created_with(model) or {}), "checkpoint": BACKBONE})
    for method in methods or (vp.LoRA(rank=2),):
        attach(model, method)
    vp.replace_head(model, head, 3)
    randomise_tuned(model)
    if not seeded:
        with torch.no_grad():
            [parameter.mul_(5) for name, parameter in model.named_parameters() if name.startswith("head.")]
    size = list(model.patch_embed.img_size)
    clips = {key: arguments[key] for key in ("num_frames", "tubelet_size") if key in arguments}
    settings = {"size": size, **INPUT, "crop_pct": 1.0, **clips, **(settings or {})}
    options: dict[str, Any] = {
        "class_names": CLASSES,
        "input_config": settings,
        "temperature": temperature,
        "task": task,
    }
    return vp.save_adapter(model.eval(), folder, **options)


def _draw_felt_weights(arguments: dict[str, Any]) -> dict[str, Tensor]:
    own = {key: value for key, value in arguments.items() if key not in ("num_frames", "tubelet_size")}
    state = timm.create_model(NAME, **own, num_classes=0).state_dict()
    generator = torch.Generator().manual_seed(3)
    drawn = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    return {
        name: 1 + 0.1 * noise
        if "norm" in name and name.endswith("weight")
        else noise * (0.3 if noise.ndim > 1 else 0.1)
        for name, noise in drawn.items()
    }
