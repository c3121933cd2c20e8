"""Attaching methods to a timm model, taking them off, folding them in."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from vision_peft.tuning import graft, record
from vision_peft.tuning.method import Method, one_of
from vision_peft.tuning.timm_blocks import blocks, classifier_names

HEADS = ("linear", "batchnorm_linear")


def attach(model: nn.Module, method: Method, *, samples: Iterable[Any] | None = None) -> nn.Module:
    """Attach ``method`` to ``model`` in place: freeze the backbone, graft; the method's parts and the head train.

    Methods stack in any order; what an earlier one trains stays trainable. A call that fails leaves the model as it
    was.

    Args:
        model: a timm vision transformer (see ``timm_blocks.blocks`` for the families).
        method: for instance ``AdaptFormer(bottleneck=64)``.
        samples: batches of (images B C H W, labels B), for methods that initialise themselves from data.

    Returns:
        The same model.

    Raises:
        TypeError: ``method`` is not an instance of a method.
        ValueError: the method does not fit the backbone or what is attached already, with the reason.
    """
    if not isinstance(method, Method):
        raise TypeError(f"wanted a method such as AdaptFormer(bottleneck=64), got {method!r}")
    if samples is not None:
        raise ValueError(f"{type(method).__name__} takes no samples")
    blocks(model)
    known = record.find(model) is not None
    tuning = record.find_or_start(model)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    depths = {module: graft.depth(module) for module in model.modules()}
    if not tuning.methods:
        model.requires_grad_(False)
        for name in classifier_names(model):
            model.get_submodule(name).requires_grad_(True)
    try:
        method.attach(model)
    except Exception:
        for module in list(model.modules()):
            graft.prune(module, keep=depths.get(module, 0))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
        if not known:
            record.forget(model)
        raise
    tuning.methods.append(method)
    tuning.in_place = [name for name, p in record.backbone_parameters(model) if p.requires_grad]
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take every method off ``model``: the same modules with their own classes, the same keys, the same outputs.

    Added tensors are dropped and a replaced head comes back. What was trained in place (full fine-tuning, the timm
    head) keeps its trained values. Save first what should be kept.
    """
    tuning = record.find(model)
    if tuning is None:
        return model
    for module in list(model.modules()):
        graft.prune(module)
    record.restore_head(model, tuning)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(tuning.requires_grad.get(name, True))
    record.forget(model)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Fold every graft into the weights it sits on; the model is a plain timm model again, with the trained head.

    Its ``state_dict`` loads strictly into ``timm.create_model`` of the same name and class count.

    Raises:
        ValueError: some graft is no constant update of weights; names them all, and nothing is changed.
    """
    tuning = record.find(model)
    if tuning is None:
        return model
    stuck = {
        kind.__name__
        for _, module in graft.grafts(model)
        for kind in graft.kinds(module)
        if kind.fold is graft.Graft.fold
    }
    if stuck:
        names = ", ".join(type(method).__name__ for method in tuning.methods)
        raise ValueError(
            f"cannot merge {names}: {', '.join(sorted(stuck))} is not a constant update of the weights it sits on; "
            "keep the adapter and use save_adapter / load_adapter"
        )
    for _, module in list(graft.grafts(model)):
        for kind in graft.kinds(module):
            kind.fold(module)
        graft.prune(module)
    for module in model.modules():
        graft.prune(module)  # overrides without a graft
    if tuning.head == "batchnorm_linear":
        for name in classifier_names(model):
            model.set_submodule(name, _fold_batchnorm(model.get_submodule(name)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(tuning.requires_grad.get(name, True))
    record.forget(model)
    return model


def replace_head(model: Any, kind: str, num_classes: int) -> nn.Module:
    """Give ``model`` a new head of ``kind`` for ``num_classes``; ``detach`` puts the old one back.

    Args:
        model: a timm vision transformer.
        kind: ``linear``, or ``batchnorm_linear`` for BatchNorm without affine parameters before it (the head of MAE's
            and AdaptFormer's main_image.py).
        num_classes: number of classes, at least 1.

    Both start from weights of σ = 0.01 and zero biases, as linear probes of MAE and DINOv2 do: with small logits at the
    start the parts before the head learn sooner than with torch's default, which ``reset_classifier`` leaves.
    """
    one_of("head", kind, HEADS)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    tuning = record.find_or_start(model)
    old = {name: model.get_submodule(name) for name in classifier_names(model)}
    if not tuning.replaced_head:
        tuning.replaced_head, tuning.num_classes = old, model.num_classes
    model.reset_classifier(num_classes)
    for name in classifier_names(model):
        linear = model.get_submodule(name)
        nn.init.trunc_normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        if kind == "batchnorm_linear":
            batchnorm = nn.BatchNorm1d(linear.in_features, affine=False, eps=1e-6).to(linear.weight.device)
            model.set_submodule(name, nn.Sequential(batchnorm, linear).train(model.training))
    tuning.head = kind
    return model


def train_mode(model: nn.Module, frozen: str = "eval") -> nn.Module:
    """Put what trains into training mode and the frozen backbone into ``frozen`` mode (``eval`` or ``train``).

    In ``eval`` mode dropout and drop-path of frozen blocks are off while the method trains, as in VPT's code. A part of
    the backbone all of whose parameters train (full fine-tuning, an unfrozen block) counts as trained.
    """
    one_of("frozen", frozen, ("eval", "train"))
    if frozen == "train":
        return model.train()
    model.eval()
    for name in classifier_names(model):
        model.get_submodule(name).train()
    for _, module in graft.grafts(model):
        for _, child in graft.children(module):
            if isinstance(child, nn.Module):
                child.train()
    trained = set(classifier_names(model))
    for name, module in model.named_modules():
        if any(name.startswith(f"{parent}.") for parent in trained) or name in trained:
            continue
        parameters = list(module.parameters())
        if parameters and all(parameter.requires_grad for parameter in parameters):
            module.train()
            trained.add(name)
            if not name:
                break
    return model


def _fold_batchnorm(head: Any) -> nn.Linear:
    batchnorm, linear = head
    scale = (batchnorm.running_var + batchnorm.eps).rsqrt()
    linear.bias -= linear.weight @ (batchnorm.running_mean * scale)
    linear.weight *= scale
    return linear
