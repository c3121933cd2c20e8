"""What tells the frozen weights of a backbone from others: a fingerprint, and marks by which a change shows.

Both look at landmarks: ``norm1.weight``, ``norm2.weight`` and ``attn.proj.weight`` of every block; of a model without
blocks the weights of all layers (``layers.body_layers``). Positions and head are left out, so that another image size
or class count keeps the fingerprint.
"""

import hashlib
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vision_peft.shards import is_sharded_module
from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of_block
from vision_peft.tuning.layers import body_layers

# Attribute with the fingerprint of a model whose weights do not tell it (packed, see ``quantize``) or never change.
FINGERPRINT = "_fingerprint_before_packing"

Mark = tuple[int, int, int]  # CRC-32 of a weight in float32, and rounded to bfloat16 and to float16


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """sha256 over the float32 bytes of the landmarks; that of packed weights is of those they were packed from.

    Empty on the meta device, where there are no weights yet.
    """
    if _has_no_weights(model):
        return ""
    if (before := model.__dict__.get(FINGERPRINT)) is not None:
        return before
    digest = hashlib.sha256()
    for weight in landmarks(model).values():
        digest.update(_in_float(weight).numpy().tobytes())
    return digest.hexdigest()


def landmarks(model: nn.Module) -> dict[str, Tensor]:
    """Return the landmarks of ``model`` by the names of the parameters, in order."""
    if has_blocks(model):
        layers = [layer for block in blocks(model) for layer in family_of_block(block).landmarks(block)]
    else:
        layers = list(body_layers(model).values())
    names = {module: name for name, module in model.named_modules()}
    return {f"{names[layer]}.weight": layer.weight for layer in layers if layer.weight is not None}


@torch.no_grad()
def mark(model: nn.Module) -> dict[str, Mark]:
    """Mark the landmarks of ``model``; none where their values are not at hand, or never change."""
    return {name: _mark(_in_float(weight)) for name, weight in _readable(model).items()}


@torch.no_grad()
def find_changed(model: nn.Module, marks: Mapping[str, Mark]) -> list[str]:
    """Name the landmarks that are not as they were marked; a model that was only rounded to 16 bits is the same."""
    changed = []
    for name, weight in _readable(model).items():
        before, now = marks.get(name), _in_float(weight)
        if before is None or before[0] == zlib.crc32(now.numpy().data):
            continue
        if not any(one == other for one, other in zip(before[1:], _mark(now)[1:], strict=True)):
            changed.append(name)
    return changed


def _has_no_weights(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())


def _readable(model: nn.Module) -> dict[str, Tensor]:
    apart = FINGERPRINT in model.__dict__ or any(map(is_sharded_module, model.modules()))
    return {} if apart or _has_no_weights(model) else landmarks(model)


def _in_float(weight: Tensor) -> Tensor:
    return weight.detach().float().cpu().contiguous()


def _mark(weight: Tensor) -> Mark:
    rounded = (weight.to(dtype).view(torch.int16) for dtype in (torch.bfloat16, torch.float16))
    first, second = (zlib.crc32(each.numpy().data) for each in rounded)
    return zlib.crc32(weight.numpy().data), first, second
