"""Switching off, for a while, what a model was tuned to: the frozen model's own function comes back inside."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vision_peft.shards import is_sharded_module
from vision_peft.tuning import graft, record


@contextmanager
def disabled(model: nn.Module, *, original: Mapping[str, Tensor] | None = None) -> Iterator[nn.Module]:
    """Give ``model`` the frozen backbone's own function inside a ``with`` block; afterwards it is tuned again.

        with vp.disabled(model), torch.no_grad():
            before = model(images)

    Grafts come off and go back on as the same objects, so that inside the output is bit for bit that of the plain
    backbone under the model's present head, and afterwards that of the tuned model, also where the block raises. What
    a method trained in place (BitFit, norms, a temporal embedding) goes back to its values before ``attach``. A copy
    of them is kept where they are at most a tenth of the backbone; for more (full fine-tuning) give ``original``.

    The modes of modules (train, eval) are after the block what they were before it. Inside, nothing can be attached,
    counted, merged or saved; ``copy.deepcopy(model)`` gives a plain frozen model, a teacher say. Blocks may be nested.
    One thread at a time: the model is changed in place.

    Args:
        model: a model with methods attached.
        original: state of the plain backbone, by the names of its ``state_dict``; needed only for what is trained in
            place and was not kept.

    Raises:
        ValueError: nothing is attached, or the model is merged (its weights hold the update), wrapped or sharded; or
            original values are missing, with their names. Nothing is changed.
    """
    if model in record.DISABLED:
        yield model
        return
    tuning = _check(model)
    values = _original_values(model, tuning, original or {})
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    popped = {module: graft.pop_grafts(module) for module in list(model.modules()) if graft.depth(module)}
    for module, grafts in popped.items():
        graft.push_grafts(module, graft.split_head_grafts(grafts)[0])
    tuned = _swap(model, values)
    record.clear_record(model)
    record.DISABLED.add(model)
    try:
        yield model
    finally:
        record.DISABLED.discard(model)
        _swap(model, tuned)
        for module, grafts in popped.items():
            graft.ungraft(module)
            graft.push_grafts(module, grafts)
        record.set_record(model, tuning)
        if next(model.parameters()).device != device:  # moved inside the block, where the grafts were not on it
            model.to(next(model.parameters()).device)
        for module, training in modes.items():
            module.training = training


def _check(model: nn.Module) -> record.Record:
    if record.find_merged(model) is not None:
        raise ValueError(
            "this model was merged, its weights hold the update: take it back with vp.unmerge(model), then disable it"
        )
    tuning = record.find(model)
    if tuning is None or not tuning.methods:
        raise ValueError(
            "nothing is attached to this model, so that nothing can be disabled; where it was merged, its weights hold "
            "the update: load the adapter on the original backbone instead"
        )
    if any(map(is_sharded_module, model.modules())):
        raise ValueError("this model is cut into shards by fully_shard: disable it before it is sharded")
    return tuning


def _original_values(model: nn.Module, tuning: record.Record, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Collect the values before ``attach`` of everything that a method trains in place, by name."""
    values = {name: given.get(name, tuning.originals.get(name)) for name in tuning.in_place}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        methods = ", ".join(type(method).__name__ for method in tuning.methods)
        raise ValueError(
            f"{methods} trained {shown} in place, and no copy of the original values was kept: give them as "
            "vp.disabled(model, original=backbone.state_dict()) of the plain backbone"
        )
    found = {name: value for name, value in values.items() if value is not None}
    wrong = [
        f"{name}: wanted {tuple(model.get_parameter(name).shape)}, got {tuple(value.shape)}"
        for name, value in found.items()
        if value.shape != model.get_parameter(name).shape
    ]
    if wrong:
        raise ValueError(f"original has tensors of another shape: {'; '.join(wrong[:5])}")
    return found


def _swap(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give parameters other values and return the ones they had; storage is exchanged, no number is copied."""
    had = {}
    with torch.inference_mode(False), torch.no_grad():
        for name, value in values.items():
            parameter = model.get_parameter(name)
            had[name], parameter.data = parameter.data, value.to(parameter.device, parameter.dtype)
    return had
