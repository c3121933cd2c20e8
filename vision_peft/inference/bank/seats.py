"""Seats: the modules of a backbone at which a batch can be cut by image, found by one forward without numbers."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning.backbone import architecture

_IMAGES = 1009  # a prime beyond every window, head, frame and position of a backbone: what it divides is images


@torch.no_grad()
def find_seats(model: Any) -> frozenset[str]:
    """Name the modules that take whole images along the first axis and give whole images along it.

    Frames of a clip and windows of an image stand next to each other there, so that a batch cut between images stays
    whole. A module that is called otherwise (a table of position biases), that also gets another tensor with a row for
    every image, or that timm does not call at all (a fused ``qkv`` of which it reads the weight) is not a seat.

    Args:
        model: a plain timm vision transformer; a copy of it runs on torch's meta device.
    """
    twin = copy_without_storage(model).eval()
    found: dict[str, bool] = {}
    for name, module in twin.named_modules():
        module.register_forward_hook(_note(found, name), with_kwargs=True)
    twin(_images(twin))
    return frozenset(name for name, fits in found.items() if fits)


def nearest_seat(name: str, seats: frozenset[str]) -> str:
    """Name the seat that holds the module ``name``: itself, else the nearest of those around it; "" is the model."""
    while name and name not in seats:
        name = name.rpartition(".")[0]
    return name


def copy_without_storage(model: nn.Module) -> nn.Module:
    """Copy ``model`` to the meta device."""
    tensors: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    return copy.deepcopy(model, tensors)


def _images(model: Any) -> Tensor:
    known = architecture(model)
    size = known["img_size"] or [224, 224]
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    channels = projection.in_channels if isinstance(projection, nn.Conv2d | nn.Conv3d) else 3
    frames = [known["num_frames"]] if known.get("num_frames") else []
    dtype = next(model.parameters()).dtype
    return torch.empty(_IMAGES, channels, *frames, *size, device="meta", dtype=dtype)


def _note(found: dict[str, bool], name: str) -> Any:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        others = [*args[1:], *kwargs.values()]
        fits = bool(args) and _holds_images(args[0]) and _holds_images(output)
        found[name] = found.get(name, True) and fits and not any(map(_holds_images, others))

    return note


def _holds_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] > 0 and value.shape[0] % _IMAGES == 0
