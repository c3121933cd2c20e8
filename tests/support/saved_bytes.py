"""Bytes that autograd keeps for the backward pass beside the model itself."""

from typing import Any

import torch
from torch import Tensor


def count_saved_bytes(model: Any, x: Tensor) -> int:
    """Bytes of all storages that a forward of ``model`` on ``x`` saves, each once, parameters and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), x]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    assert y.requires_grad
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
