"""Which kind of ``replace_head`` the head of a model is, whoever put it there: an adapter names it, and no other.

A head is of a kind where a new one of this kind is the same: the same classes in the same order, with the same settings
and the same names and shapes of tensors. Anything else is the user's own, which a load could not make again.
"""

import copy
from typing import Any

import torch
from torch import nn

from vision_peft.printable import printable
from vision_peft.tuning.attentive import AttentiveHead
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.few_bit_linear import FewBitLinear
from vision_peft.tuning.graft import plain_class
from vision_peft.tuning.head_kinds import CLASS_MEAN, count_mlp_layers, head_text, read_head
from vision_peft.tuning.head_tokens import ClassMeanLinear
from vision_peft.tuning.heads import create_head, is_plain_layer
from vision_peft.tuning.map_heads import MapClassifier
from vision_peft.tuning.neighbours import NeighbourHead

_LONGEST = 200  # characters of a head that a message shows


def head_kind(model: nn.Module) -> str:
    """Describe what the classification layer is now, whoever put it there: see ``heads.replace_head``.

    Raises:
        ValueError: it is none that ``replace_head`` makes.
    """
    kind = find_head_kind(model)
    if kind is None:
        layers = [model.get_submodule(name) for name in classifier_names(model)]
        shown = " ".join(str(layers[0]).split())
        shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."
        raise ValueError(
            f"the head of this model is of your own making, {printable(shown)} for num_classes="
            f"{getattr(model, 'num_classes', None)}, and no adapter can say how to make it again: use one that "
            "vp.replace_head makes, or keep vp.tuned_state_dict(model), which vp.load_tuned copies into a model with "
            "the same head and methods"
        )
    return kind


def find_head_kind(model: nn.Module) -> str | None:
    """Return the kind that all classification layers are; None where they are none, or several."""
    kinds = {_kind_of(model, model.get_submodule(name)) for name in classifier_names(model)}
    return kinds.pop() if len(kinds) == 1 else None


def _kind_of(model: Any, layer: Any) -> str | None:
    kind = _guess_kind(layer)
    if kind == "linear":
        return kind if _is_timms(model, layer) else None
    features = _count_inputs(layer)
    if kind is None or features is None:
        return None
    with torch.device("meta"), torch.no_grad():
        linear, like = nn.Linear(features, model.num_classes), torch.empty(())
        try:
            created = create_head(model, kind, read_head(kind), model.num_classes, linear, like)
        except ValueError:  # options that do not fit this model
            return None
    return kind if _are_alike(layer, created) else None


def _guess_kind(layer: Any) -> str | None:
    if isinstance(layer, AttentiveHead | MapClassifier | NeighbourHead):
        return head_text(layer.kind)
    if isinstance(layer, FewBitLinear):
        return "bi_linear" if layer.weight is not None else "bi_linear_packed"
    if isinstance(layer, ClassMeanLinear):
        return CLASS_MEAN
    if not isinstance(layer, nn.Sequential):
        return "linear"
    if len(layer) == 2 and isinstance(layer[0], nn.BatchNorm1d):
        return "batchnorm_linear"
    kind = f"mlp-{sum(isinstance(part, nn.Linear) for part in layer)}"
    return kind if count_mlp_layers(kind) else None


def _count_inputs(layer: Any) -> int | None:
    if isinstance(layer, AttentiveHead | MapClassifier):
        return 1  # they ask the model
    if isinstance(layer, NeighbourHead):
        return layer.bank.shape[1]
    if isinstance(layer, ClassMeanLinear):
        return layer.in_features // 2
    first = layer[0] if isinstance(layer, nn.Sequential) else layer
    return getattr(first, "num_features", getattr(first, "in_features", None))


def _is_timms(model: Any, layer: Any) -> bool:
    """Tell whether a layer is what timm's own ``reset_classifier`` makes."""
    if not is_plain_layer(layer):
        return False
    if plain_class(layer) is nn.Linear and layer.bias is not None:
        return layer.out_features == model.num_classes
    tensors: dict[int, Any] = {id(tensor): tensor.detach().to("meta") for tensor in model.buffers()}
    for parameter in model.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    twin = copy.deepcopy(model, tensors)
    with torch.device("meta"):
        twin.reset_classifier(model.num_classes)
    return any(_are_alike(layer, twin.get_submodule(name)) for name in classifier_names(twin))


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two modules compute the same of the same tensors, as far as their classes and settings tell."""
    if plain_class(one) is not plain_class(other) or _settings(one) != _settings(other) or "forward" in vars(one):
        return False
    ours, theirs = dict(one.named_children()), dict(other.named_children())
    return list(ours) == list(theirs) and all(_are_alike(part, theirs[name]) for name, part in ours.items())


def _settings(module: nn.Module) -> tuple[Any, ...]:
    tensors = {**module._parameters, **module._buffers}
    shapes = {name: None if tensor is None else tuple(tensor.shape) for name, tensor in tensors.items()}
    in_words = "" if isinstance(module, nn.ReLU) else module.extra_repr()  # in place or not, it is one function
    return in_words, shapes
