"""Folding what is attached into the weights it sits on, for good or with a way back."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning import graft, record
from vision_peft.tuning.attach import attach_for_loading
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.heads import plain_head
from vision_peft.tuning.packed_linear import quantized_as


@torch.no_grad()
def merge(model: nn.Module, *, reversible: bool = False) -> nn.Module:
    """Fold every graft into the weights it sits on; the model is a plain timm model again, with the trained head.

    Its ``state_dict`` loads strictly into ``timm.create_model`` of the same name and class count. A method of which
    something stays that no weights express (``Method.merged``: the shift over time of ``ZeroI2V``) is still attached
    afterwards, as that, to the merged weights.

    Args:
        model: a model with methods attached.
        reversible: remember what ``unmerge`` needs, outside of the ``state_dict``: a copy of every weight that changes,
            on its device, and what was attached. On ViT-B in fp32 that is 85 MB for LoRA on the fused qkv, 340 MB for
            all linear layers. ``merge(model)`` once more drops it.

    Raises:
        ValueError: some graft is no constant update of weights, or the head is an MLP or of the user's own making;
            names the grafts with their reasons, and nothing is changed.
    """
    tuning = record.find(model)
    if tuning is None:
        if not reversible:
            record.clear_merged(model)
        return model
    names = ", ".join(type(method).__name__ for method in tuning.methods)
    if (dtype := quantized_as(model)) is not None:
        raise ValueError(
            f"cannot merge {names} into weights that are kept in {dtype}: load the adapter onto the backbone in fp32 "
            "and merge there; its logits then differ by what packing changed in the weights"
        )
    _check_kinds(model, names)
    old_heads = {name: model.get_submodule(name) for name in classifier_names(model)}
    heads = {name: plain_head(head) for name, head in old_heads.items()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    _fold_all(model, names, before)
    replaced = {name: head for name, head in old_heads.items() if heads[name] is not head}
    weights = _changed(before, model.state_dict()) if reversible else {}
    grafts = {name: graft.pop_grafts(module) for name, module in list(model.named_modules()) if graft.depth(module)}
    for name in replaced:
        model.set_submodule(name, heads[name])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(tuning.requires_grad.get(name, True))
    record.clear_record(model)
    for method in filter(None, [method.merged() for method in tuning.methods]):
        attach_for_loading(model, method)
    for name, tensor in record.graft_tensors(model).items():
        tensor.copy_(before[name])
    del before
    if reversible:
        digests = _digests(model)
        record.set_merged(model, record.Merged(tuning, grafts, weights, replaced, flags, modes, digests))
    return model


def _check_kinds(model: nn.Module, names: str) -> None:
    stuck = {
        kind.__name__
        for _, module in graft.grafts(model)
        for kind in graft.kinds(module)
        if kind.fold is graft.Graft.fold and not issubclass(kind, graft.HeadGraft)  # of the head, see plain_head
    }
    if stuck:
        raise ValueError(
            f"cannot merge {names}: {', '.join(sorted(stuck))} is not a constant update of the weights it sits on; "
            "keep the adapter and use save_adapter / load_adapter"
        )


def _fold_all(model: nn.Module, names: str, before: dict[str, Tensor]) -> None:
    refusals: dict[str, str] = {}  # reason -> a module that gives it
    grafted = list(graft.grafts(model))
    for _, module in grafted:
        for kind in graft.kinds(module):
            kind.prepare_fold(module)
    for name, module in reversed(grafted):  # layers before the norm they read, which may fold into them
        for kind in graft.kinds(module):
            try:
                kind.fold(module)
            except ValueError as error:
                refusals.setdefault(str(error), name)
    if refusals:
        model.load_state_dict(before)
        reasons = "; ".join(f"{reason} ({name})" for reason, name in refusals.items())
        raise ValueError(f"cannot merge {names}: {reasons}; keep the adapter and use save_adapter / load_adapter")


@torch.no_grad()
def unmerge(model: nn.Module) -> nn.Module:
    """Take a ``merge(model, reversible=True)`` back: the model is bit for bit what it was before.

    Nothing is subtracted (W + BA - BA is not W in floating point): the remembered weights are put back, in place, and
    with them what was attached, the head, what is trainable and the modes of all modules (call ``train_mode`` or
    ``eval`` as before a merge). An optimiser made before the merge goes on. The model may have moved to another device.

    Returns:
        The same model.

    Raises:
        ValueError: no reversible merge to take back, or the merged weights changed since (they were trained, loaded,
            or converted to another type), with their names; nothing is changed.
    """
    merged = record.find_merged(model)
    if merged is None:
        raise ValueError(
            "nothing to unmerge: wanted a model merged by vp.merge(model, reversible=True); without it, load the saved "
            "adapter on the original backbone"
        )
    now = _digests(model)
    touched = [name for name in {**merged.digests, **now} if merged.digests.get(name) != now.get(name)]
    if touched:
        shown = ", ".join(touched[:5]) + (f" and {len(touched) - 5} more" if len(touched) > 5 else "")
        raise ValueError(
            f"cannot unmerge: {shown} changed since the merge, and would be lost; load the merged weights again, or "
            "keep this model for good with vp.merge(model)"
        )
    device = next(model.parameters()).device
    for module in list(model.modules()):
        graft.ungraft(module)
    state = model.state_dict()
    for name, tensor in merged.weights.items():
        state[name].copy_(tensor)
    for name, head in merged.heads.items():
        model.set_submodule(name, head.to(device))
    for name, popped in merged.grafts.items():
        module: Any = model.get_submodule(name)
        graft.push_grafts(module, popped)
        for _, child in graft.children(module):
            if isinstance(child, nn.Module):
                child.to(device)
            else:
                child.data = child.data.to(device)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(merged.requires_grad[name])
    for name, module in model.named_modules():
        module.training = merged.training.get(name, module.training)
    record.clear_merged(model)
    record.set_record(model, merged.record)
    return model


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``before`` that are not bit for bit the same in ``after``; none on the meta device."""
    return {
        name: tensor
        for name, tensor in before.items()
        if not (tensor.is_meta or torch.equal(_bits(tensor), _bits(after[name])))
    }


def _digests(model: nn.Module) -> dict[str, str]:
    """sha256 of type and bytes of every tensor in the ``state_dict``; of the type alone on the meta device."""
    digests = {}
    for name, tensor in model.state_dict().items():
        digest = hashlib.sha256(str((tensor.dtype, tuple(tensor.shape))).encode())
        if not tensor.is_meta:
            digest.update(_bits(tensor).cpu().numpy().tobytes())
        digests[name] = digest.hexdigest()
    return digests
