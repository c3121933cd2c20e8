"""Tuned models to merge, and what of a model must be the same after the way there and back."""

from typing import Any

import torch
from support.families import randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import record


def tuned(methods: list[vp.Method], family: str = "vit", head: str | None = None) -> Any:
    """A tiny model with these methods attached and random tuned tensors."""
    model = tiny(family)
    if head is not None:
        vp.replace_head(model, head, 5)
    for method in methods:
        vp.attach(model, method)
    randomise_tuned(model)
    return model


def bits(model: nn.Module) -> dict[str, bytes]:
    """The bytes of every tensor: torch.equal takes 0.0 for -0.0."""
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def snapshot(model: nn.Module) -> dict[str, Any]:
    """State, parameters, modules and their attributes, the record of methods and the counts."""
    return {
        "state": bits(model),
        "parameters": {name: (id(p), p.requires_grad) for name, p in model.named_parameters()},
        "modules": {name: (id(module), type(module), module.training) for name, module in model.named_modules()},
        "attributes": {name: set(vars(module)) for name, module in model.named_modules()},
        "record": record.find(model),
        "counts": vp.count_parameters(model),
        "num_classes": model.num_classes,
    }


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """One step of `optimizer` on the squares of the outputs; draws as after seed 0."""
    optimizer.zero_grad()
    torch.manual_seed(0)
    model(x).square().sum().backward()
    optimizer.step()
