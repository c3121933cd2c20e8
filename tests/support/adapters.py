"""A saved adapter to damage."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from support.families import randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.formats.adapter_info import tensors_sha256

LORA = vp.LoRA(rank=2)


def tuned_model(family: str = "vit", *methods: vp.Method, head: str = "linear") -> nn.Module:
    """A tuned model of ``family`` with random tuned tensors."""
    model = tiny(family)
    if head != "linear":
        vp.replace_head(model, head, 5)
    for method in methods or (LORA,):
        vp.attach(model, method)
    randomise_tuned(model)
    return model.eval()


def change_info(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply ``change`` to the object in adapter.json."""
    path = folder / "adapter.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def write_tensors(folder: Path, data: bytes) -> None:
    """Replace the tensors and make adapter.json agree with them, as a careful forger would."""
    (folder / "adapter.safetensors").write_bytes(data)
    try:
        checksum = tensors_sha256(safetensors.torch.load(data))
    except SafetensorError:  # no tensors, no checksum
        checksum = hashlib.sha256(data).hexdigest()
    change_info(folder, lambda info: info.update(tensors_sha256=checksum))


def to_version_1(folder: Path) -> None:
    """Make of the folder what format 1 wrote: no metadata, and the checksum is that of the file."""
    data = safetensors.torch.save(safetensors.torch.load((folder / "adapter.safetensors").read_bytes()))
    (folder / "adapter.safetensors").write_bytes(data)
    checksum = hashlib.sha256(data).hexdigest()
    change_info(folder, lambda info: info.update(format_version=1, tensors_sha256=checksum))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the whole state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states agree bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
