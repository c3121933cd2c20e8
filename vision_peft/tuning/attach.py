"""Attaching methods to a timm model and taking them off."""

from collections.abc import Iterable
from typing import Any

import timm
from torch import nn

from vision_peft.tuning import graft, record
from vision_peft.tuning.backbone import classifier_names, trained_with_methods
from vision_peft.tuning.families import family_of
from vision_peft.tuning.heads import replace_head
from vision_peft.tuning.method import Method, one_of
from vision_peft.tuning.modes import set_modes
from vision_peft.tuning.short_block import restore_last_block, shorten_last_block
from vision_peft.tuning.timm_version import warn_if_untested

__all__ = ["attach", "attach_for_loading", "detach", "replace_head", "train_mode"]

KEPT_SHARE = 0.1  # of the backbone: parameters trained in place of which a copy of the original values is kept


def attach(model: nn.Module, method: Method, *, samples: Iterable[Any] | None = None) -> nn.Module:
    """Attach ``method`` to ``model`` in place and freeze the backbone: the method's parts and the head train.

    Methods stack in any order; what an earlier one trains stays trainable. A call that fails leaves the model as it
    was.

    Where the head reads the class token alone, the last block computes that one only (``short_block``): logits and
    gradients are the same but for rounding.

    What the backbone's patch embedding lists in ``trained_with_methods`` (the temporal embedding of an inflated video
    model) trains with every method but a linear probe, and is counted and stored with it.

    Args:
        model: a timm model; a vision transformer (see ``families``) takes every method, any other those that need no
            blocks.
        method: for instance ``AdaptFormer(bottleneck=64)``.
        samples: batches of (images B C H W, labels B), for a method with ``samples_needed``; further entries of a batch
            are ignored. A model on torch's meta device, where nothing is computed, does without.

    Returns:
        The same model.

    Raises:
        TypeError: ``method`` is not an instance of a method.
        ValueError: the method does not fit the backbone or what is attached already, with the reason; samples are
            missing, or given to a method that takes none.
    """
    _check_method(method)
    needed = method.samples_needed
    if samples is not None and needed is None:
        raise ValueError(f"{type(method).__name__} takes no samples")
    is_meta = any(parameter.is_meta for parameter in model.parameters())
    if samples is None and needed is not None and not is_meta:
        raise ValueError(
            f"{method!r} needs images {needed.purpose}: pass attach(model, method, samples=loader) with batches of "
            "(images, labels)"
        )
    return _attach(model, method, samples, initialise=needed is None or samples is not None)


def attach_for_loading(model: nn.Module, method: Method) -> nn.Module:
    """``attach`` without start values from data or files, for a method whose tensors are loaded afterwards."""
    _check_method(method)
    return _attach(model, method, None, initialise=False)


def _check_method(method: Any) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"wanted a method such as AdaptFormer(bottleneck=64), got {method!r}")


def _attach(model: nn.Module, method: Method, samples: Iterable[Any] | None, *, initialise: bool) -> nn.Module:
    warn_if_untested(timm.__version__)
    known = record.find(model) is not None
    family_of(model)
    for need in method.needs:
        need.check(model)
    tuning = record.get_or_create_record(model)
    shortened = restore_last_block(model)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    depths = {module: graft.depth(module) for module in model.modules()}
    if not tuning.methods:
        record.note_weights(model, tuning)
        model.requires_grad_(False)
        for name in classifier_names(model):
            model.get_submodule(name).requires_grad_(True)
    try:
        method.attach(model)
        if method.changes_features:
            for parameter in trained_with_methods(model):
                parameter.requires_grad_(True)
        _join_backbone(model, depths)
        if initialise:
            method = method.initialise(model, samples) or method
    except Exception:
        for module in list(model.modules()):
            graft.ungraft(module, keep=depths.get(module, 0))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
        if not known:
            record.clear_record(model)
        if shortened:
            shorten_last_block(model)
        raise
    tuning.methods.append(method)
    _note_in_place(model, tuning)
    shorten_last_block(model)
    return model


def _note_in_place(model: nn.Module, tuning: record.Record) -> None:
    """Note which backbone parameters train or did, and keep their values, for ``vp.disabled``, where they are few.

    What an earlier method trained stays noted where it was frozen since: its values are not the pretrained ones.
    """
    backbone = dict(record.backbone_parameters(model))
    trained = {name: p for name, p in backbone.items() if p.requires_grad}
    added = {name: p for name, p in trained.items() if name not in tuning.in_place}
    if sum(p.numel() for p in trained.values()) <= KEPT_SHARE * sum(p.numel() for p in backbone.values()):
        tuning.originals |= {name: p.detach().clone() for name, p in added.items() if not p.is_meta}
    known = {*tuning.in_place, *trained}
    tuning.in_place = [name for name in backbone if name in known]


def _join_backbone(model: nn.Module, depths: dict[nn.Module, int]) -> None:
    # What was just grafted goes to the device and floating type of the backbone; in place, since grafts share parts.
    like = next(model.parameters())
    for module in list(model.modules()):
        for name, child in graft.children(module, since=depths.get(module, 0)):
            if isinstance(child, nn.Module):
                child.to(like.device, like.dtype)
            elif like.is_meta and not child.is_meta:
                setattr(module, name, nn.Parameter(child.detach().to(like.device, like.dtype)))
            else:
                child.data = child.data.to(like.device, like.dtype)


def detach(model: nn.Module) -> nn.Module:
    """Take every method off ``model``: the same modules with their own classes, the same keys, the same outputs.

    Added tensors are dropped and a replaced head comes back. What was trained in place (full fine-tuning, the timm
    head) keeps its trained values. Save first what should be kept.
    """
    tuning = record.find(model)
    if tuning is None:
        restore_last_block(model)
        return model
    for module in list(model.modules()):
        graft.ungraft(module)
    record.restore_head(model, tuning)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(tuning.requires_grad.get(name, True))
    record.clear_record(model)
    return model


def train_mode(model: nn.Module, frozen: str = "eval") -> nn.Module:
    """Put what trains into training mode and the frozen backbone into ``frozen`` mode (``eval`` or ``train``).

    In ``eval`` mode dropout and drop-path of frozen blocks are off while the method trains, as in VPT's code. A part of
    the backbone all of whose parameters train (full fine-tuning, an unfrozen block) counts as trained. From now on
    ``model.train()``, which trainers call, does the same with this mode; after ``attach`` it is ``eval``.

    Args:
        model: a timm vision transformer, usually with methods attached.
        frozen: mode of the frozen modules; ``train`` lets a ``drop_path`` of the backbone act.

    Returns:
        The same model.

    Raises:
        ValueError: another mode, or a wrapped model.
    """
    one_of("frozen", frozen, ("eval", "train"))
    tuning = record.find(model)
    if tuning is not None:
        tuning.frozen_mode = frozen
    set_modes(model, frozen)
    return model
