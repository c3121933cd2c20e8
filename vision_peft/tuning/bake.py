"""Baking: what only training needs (Prefix-Tuning's MLP, P-Tuning's encoder) becomes the constant that it makes."""

from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning import graft, record
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.few_bit_linear import pack_all
from vision_peft.tuning.known_heads import find_head_kind, head_kind


@torch.no_grad()
def bake(model: nn.Module) -> nn.Module:
    """Replace training-time re-parametrisations by their constants in place; the outputs stay.

    The constants train, should training go on. Nothing happens where nothing is re-parametrised or attached.

    Returns:
        The same model.
    """
    tuning = record.find(model)
    if tuning is None:
        return model
    found = [(module, name, child) for _, module in graft.grafts(model) for name, child in _constants(module).items()]
    for module, name, child in found:
        setattr(module, name, child)
    if find_head_kind(model) == "bi_linear":
        for name in classifier_names(model):
            head: Any = model.get_submodule(name)
            head.pack()
    tuning.methods = [method.baked() for method in tuning.methods]
    return model


@torch.no_grad()
def baked_graft_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Compute the tensors of grafts (``record.graft_tensors``) as after ``bake``; the model stays as it is."""
    found = record.graft_tensors(model)
    for module_name, module in graft.grafts(model):
        prefix = f"{module_name}." if module_name else ""
        for name, child in _constants(module).items():
            key = prefix + name
            found = {k: tensor for k, tensor in found.items() if k != key and not k.startswith(f"{key}.")}
            if isinstance(child, nn.Parameter):
                found[key] = child
            elif child is not None:
                found |= {f"{key}.{inner}": t for inner, t in child.state_dict(keep_vars=True).items()}
    return found


def baked_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Compute the tuned state (``state.tuned_state_dict``) as after ``bake``; the model stays as it is."""
    grafted = record.graft_tensors(model)
    rest = {name: tensor for name, tensor in record.tuned_tensors(model).items() if name not in grafted}
    for name in classifier_names(model) if find_head_kind(model) == "bi_linear" else ():
        del rest[f"{name}.weight"]
        head = pack_all(model.get_submodule(name)).state_dict(keep_vars=True)
        rest |= {f"{name}.{key}": tensor for key, tensor in head.items()}
    return {name: tensor.detach() for name, tensor in {**baked_graft_tensors(model), **rest}.items()}


def baked_head_kind(model: nn.Module) -> str:
    """Return the kind of head as after ``bake``; raises as ``head_kind``."""
    kind = head_kind(model)
    return "bi_linear_packed" if kind == "bi_linear" else kind


def _constants(module: Any) -> dict[str, nn.Module | nn.Parameter | None]:
    made = {}
    for kind in graft.kinds(module):
        for name, constant in kind.bake(module).items():
            made[name] = nn.Parameter(constant.detach().clone()) if isinstance(constant, Tensor) else constant
    return made
