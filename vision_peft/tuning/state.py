"""Counting, listing, reading and writing what a tuned model learned."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vision_peft.tuning import record
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.bake import baked_graft_tensors
from vision_peft.tuning.checked_tensors import CheckedTensors
from vision_peft.tuning.method import one_of


class Counts(NamedTuple):
    """Numbers of parameters; ``trained`` and ``stored`` exclude the head. ``str`` says them in words."""

    trained: int  # receive gradients
    stored: int  # are in an adapter folder: what is left after baking; packed codes count by their bytes
    head: int
    backbone: int  # all of the backbone proper, without grafts and head

    def __str__(self) -> str:
        share = f"{100 * self.trained / self.backbone:.3g} % of the backbone's {self.backbone:,}"
        return (
            f"{self.trained:,} parameters train, {share}; the head has {self.head:,} more; an adapter stores "
            f"{self.stored:,} and the head"
        )


def count_parameters(model: nn.Module) -> Counts:
    """Count the parameters of ``model`` as tables report them, head excluded from ``trained`` and ``stored``."""
    tuning = record.find(model)
    grafted = [t for t in record.graft_tensors(model).values() if isinstance(t, nn.Parameter)]
    baked = [t for t in baked_graft_tensors(model).values() if isinstance(t, nn.Parameter) or t.dtype == torch.uint8]
    backbone = [parameter for _, parameter in record.backbone_parameters(model)]
    head = [t for t in record.head_tensors(model).values() if isinstance(t, nn.Parameter)]
    trained = sum(p.numel() for p in grafted + backbone if p.requires_grad)
    in_place = sum(model.get_parameter(name).numel() for name in tuning.in_place) if tuning else 0
    return Counts(
        trained=trained,
        stored=sum(p.numel() for p in baked) + in_place,
        head=sum(p.numel() for p in head),
        backbone=sum(p.numel() for p in backbone) + record.count_packed(model),
    )


def tuned_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Return name and parameter of everything that trains: grafts, head, unfrozen parts of the backbone."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def tuned_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor that tuning may change, head included, detached, by its name in ``model.state_dict()``."""
    return {name: tensor.detach() for name, tensor in record.tuned_tensors(model).items()}


@torch.no_grad()
def load_tuned(model: nn.Module, state: Mapping[str, Tensor], head: str = "load") -> None:
    """Copy ``state`` (of ``tuned_state_dict``) into ``model``, strictly.

    Args:
        model: a model with the same methods attached.
        state: tensors by name; their dtype is converted, their shape must fit.
        head: ``load`` takes the head from ``state``; ``keep`` leaves the model's own and ignores the one in ``state``.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; names them all, and nothing is changed.
    """
    one_of("head", head, ("load", "keep"))
    wanted = record.tuned_tensors(model)
    given = dict(state)
    if head == "keep":
        prefixes = tuple(f"{name}." for name in classifier_names(model))
        wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith(prefixes)}
        given = {name: tensor for name, tensor in given.items() if not name.startswith(prefixes)}
    problems = [f"missing: {name}" for name in wanted if name not in given]
    problems += [f"unexpected: {name}" for name in given if name not in wanted]
    problems += [
        f"shape of {name}: wanted {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in given.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    problems = problems or _problems_inside(model, given)
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"tuned tensors do not fit the model:\n  {shown}")
    for name, tensor in given.items():
        wanted[name].copy_(tensor)


def _problems_inside(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Say what modules that check their tensors cannot work with."""
    found = []
    for module_name, module in model.named_modules():
        if isinstance(module, CheckedTensors):
            own = {name: f"{module_name}.{name}" for name in module.state_dict()}
            problems = {key: module.problem(name, given[key]) for name, key in own.items() if key in given}
            found += [f"{key}: {problem}" for key, problem in problems.items() if problem]
    return found
