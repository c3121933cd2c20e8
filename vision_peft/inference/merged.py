"""Write a tuned model whose method folds into the weights as a plain timm checkpoint, in timm's own layout of the hub.

    config.json        architecture, num_classes, label_names, model_args, pretrained_cfg (mean, std, input_size,
                       interpolation, crop_pct, crop_mode): what timm's save_for_hf writes and its loaders read; task
                       (kind, thresholds, unit) and temperature, for whoever reads the outputs
    model.safetensors  the state_dict of timm's model

Mean and standard deviation of a regression are folded into the head, so that timm's outputs are in the units of the
labels. Grades have fewer outputs than names, which timm would take for classes: they are refused.

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
from vision_peft.inference.outputs import explain_outputs, find_task
from vision_peft.inference.pixels import complete_settings, draw_noise
from vision_peft.tasks.task import Task
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.merge import merge

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLOSE = 1e-4  # of logits; sums of products in another order differ by less
_ROUNDING = 0.01  # share of a number in units that is added to its standard deviation, beside which it may be large
_KEPT = ("kind", "thresholds", "unit")  # of a task, in config.json
_SQUASH = {"crop_mode": "squash", "crop_pct": 1.0}


@dataclass(frozen=True)
class Merged:
    """What was written, and how it is made again."""

    weights: Path
    difference: float  # largest of logits, between the tuned model and timm's made of the files; of regression in stds
    architecture: str
    arguments: dict[str, Any]  # of timm.create_model, for the weights alone
    notes: list[str]  # what timm does otherwise, and how outputs are read


def write_merged(model: Any, folder: Path, name: str = WEIGHTS, *, overwrite: bool = False) -> Merged:
    """Merge `model` of `vp.load`, in place, and write it; kept only where timm's own model gives the same logits.

    Args:
        model: images to logits.
        folder: made where it is absent; ``config.json`` lies in it too.
        name: of the weights, which ends in .safetensors.
        overwrite: replace files that are there.

    Raises:
        ValueError: a method that does not fold into weights, a model of clips, a task whose answers timm's model could
            not give, or logits that differ.
        FileExistsError: one of the files is there, and `overwrite` is False.
    """
    settings = complete_settings(model)
    inputs = ExportGraph(model, settings).normalise(draw_noise(model, 2))
    before, info, task = _logits(model, inputs), model.adapter_info, find_task(model)
    try:
        if not task.classes_have_outputs:
            raise ValueError(
                f"cannot merge a task of {task.kind}: its outputs are {task.outputs_are}; timm names classes"
            )
        if settings.get("num_frames"):
            raise ValueError("cannot merge a video model: timm has no model that could load it")
        merge(model)
        _fold_units(model, task)
    except ValueError as error:
        reason = re.split("[;:] keep the adapter", str(error))[0]
        raise ValueError(f"{reason}; vision-peft export writes any method (onnx, torch_export, torchscript)") from None
    pretrained: dict[str, Any] = {"label_names": None}  # the backbone's own, which may have as many classes
    config: dict[str, Any] = {"label_names": None if task.open_set else info.class_names, "pretrained_cfg": pretrained}
    if info.task is not None:
        config["task"] = {key: info.task[key] for key in _KEPT if key in info.task}
    if info.temperature is not None:
        config["temperature"] = info.temperature
    with make_files(folder, (CONFIG, name), overwrite) as made:
        save_for_hf(model, str(made), model_config=config, safe_serialization=True, data_config=_for_timm(settings))
        again = timm.create_model(f"local-dir:{made}", pretrained=True).eval()
        difference = _compare(_logits(again, inputs), before, task)
        if not difference <= CLOSE:
            raise ValueError(
                f"nothing is written: the logits of timm's model differ by {difference:.1e} from those of the tuned "
                f"one, wanted at most {CLOSE:.0e}"
            )
        (made / WEIGHTS).rename(made / name)
    architecture = str(model.pretrained_cfg["architecture"])
    arguments = {key: value for key, value in get_model_args(model).items() if key != "in_chans" or value != 3}
    notes = [*_notes(settings), *explain_outputs(model, f"{CONFIG} has", in_units=True)]
    return Merged(folder / name, difference, architecture, arguments, notes)


@torch.no_grad()
def _fold_units(model: nn.Module, task: Task) -> None:
    """Have the linear head of a merged model answer in the units of the labels.

    Raises:
        ValueError: it does not end in a linear layer with a bias.
    """
    if (units := task.to_units()) is None:
        return
    heads: dict[str, Any] = {name: model.get_submodule(name) for name in classifier_names(model)}
    for name, head in heads.items():
        if not isinstance(head, nn.Linear) or head.bias is None:
            raise ValueError(
                f"cannot merge a task of {task.kind} into {name}, a {type(head).__name__}: its mean and standard "
                "deviation fold into a linear layer with a bias"
            )
    for head in heads.values():
        std, mean = (each.to(head.weight.device) for each in units)
        head.weight.copy_(head.weight.double() * std.unsqueeze(1))
        head.bias.copy_(head.bias.double() * std + mean)


def _compare(found: Tensor, logits: Tensor, task: Task) -> float:
    """Return the largest difference of logits; of numbers in units relative to their standard deviation and size."""
    if (units := task.to_units()) is None:
        return float((found - logits).abs().max())
    std, mean = units
    wanted = logits.double() * std + mean
    return float(((found.double() - wanted).abs() / (std + _ROUNDING * wanted.abs())).max())


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
