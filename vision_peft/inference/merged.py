"""Write a tuned model whose method folds into the weights as a plain timm checkpoint, in timm's own layout of the hub.

    config.json        architecture, num_classes, label_names, model_args, pretrained_cfg (mean, std, input_size,
                       interpolation, crop_pct, crop_mode): what timm's save_for_hf writes and its loaders read
    model.safetensors  the state_dict of timm's model

timm's evaluation transform made of it gives the pixels of the training's: squash is timm's crop_mode squash, shortest
its crop_mode center. Two things timm does otherwise: images of more than 32 widths length, which lose their ends here,
and shortest at a size that is not square, where the scaled long side may differ by a pixel.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_model_args, save_for_hf
from torch import Tensor, nn

from vision_peft.inference.export_graph import ExportGraph
from vision_peft.inference.make_files import make_files
from vision_peft.inference.pixels import complete_settings, draw_noise
from vision_peft.tuning.merge import merge

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLOSE = 1e-4  # of logits; sums of products in another order differ by less
_SQUASH = {"crop_mode": "squash", "crop_pct": 1.0}


@dataclass(frozen=True)
class Merged:
    """What was written, and how it is made again."""

    weights: Path
    difference: float  # largest of logits, between the tuned model and timm's made of the files
    architecture: str
    arguments: dict[str, Any]  # of timm.create_model, for the weights alone
    notes: list[str]  # what timm does otherwise


def write_merged(model: Any, folder: Path, name: str = WEIGHTS, *, overwrite: bool = False) -> Merged:
    """Merge `model` of `vp.load`, in place, and write it; kept only where timm's own model gives the same logits.

    Args:
        model: images to logits.
        folder: made where it is absent; ``config.json`` lies in it too.
        name: of the weights, which ends in .safetensors.
        overwrite: replace files that are there.

    Raises:
        ValueError: a method that does not fold into weights, a model of clips, or logits that differ.
        FileExistsError: one of the files is there, and `overwrite` is False.
    """
    settings = complete_settings(model)
    inputs = ExportGraph(model, settings).normalise(draw_noise(model, 2))
    before = _logits(model, inputs)
    try:
        if settings.get("num_frames"):
            raise ValueError("cannot merge a video model: timm has no model that could load it")
        merge(model)
    except ValueError as error:
        reason = re.split("[;:] keep the adapter", str(error))[0]
        raise ValueError(f"{reason}; vision-peft export writes any method (onnx, torch_export, torchscript)") from None
    pretrained: dict[str, Any] = {"label_names": None}  # the backbone's own, which may have as many classes
    config = {"label_names": model.adapter_info.class_names, "pretrained_cfg": pretrained}
    with make_files(folder, (CONFIG, name), overwrite) as made:
        save_for_hf(model, str(made), model_config=config, safe_serialization=True, data_config=_for_timm(settings))
        again = timm.create_model(f"local-dir:{made}", pretrained=True).eval()
        difference = float((_logits(again, inputs) - before).abs().max())
        if not difference <= CLOSE:
            raise ValueError(
                f"nothing is written: the logits of timm's model differ by {difference:.1e} from those of the tuned "
                f"one, wanted at most {CLOSE:.0e}"
            )
        (made / WEIGHTS).rename(made / name)
    architecture = str(model.pretrained_cfg["architecture"])
    arguments = {key: value for key, value in get_model_args(model).items() if key != "in_chans" or value != 3}
    return Merged(folder / name, difference, architecture, arguments, _notes(settings))


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(inputs.to(next(model.parameters()).device)).float().cpu()


def _for_timm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Say in timm's words what `data.transforms.images.eval_transform` does with these settings."""
    interpolation = str(settings["interpolation"])
    crop = {"crop_mode": "center", "crop_pct": settings["crop_pct"]} if settings["resize"] == "shortest" else _SQUASH
    return {
        "input_size": (len(settings["mean"]), *settings["size"]),
        "mean": tuple(settings["mean"]),
        "std": tuple(settings["std"]),
        "interpolation": "nearest" if interpolation == "nearest-exact" else interpolation,  # on PIL images the same
        **crop,
    }


def _notes(settings: Mapping[str, Any]) -> list[str]:
    height, width = settings["size"]
    if settings["resize"] != "shortest" or height == width:
        return []
    return [
        f"timm scales images to cover {height} x {width} pixels with another rounding: the long side may differ by one "
        "pixel from the training's"
    ]
