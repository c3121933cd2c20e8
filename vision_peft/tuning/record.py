"""What a tuned model knows about its tuning: one plain object on the model, never in its ``state_dict``."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vision_peft.printable import name_some
from vision_peft.shards import is_sharded_module
from vision_peft.tuning import graft
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.fingerprint import Mark, find_changed, fingerprint, mark
from vision_peft.tuning.method import Method
from vision_peft.tuning.modes import set_modes
from vision_peft.tuning.packed_linear import quantized_layers

DISABLED: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models inside ``disable.disabled``: their record is aside


@dataclass
class Record:
    """Everything ``attach`` and ``replace_head`` have to remember."""

    fingerprint: str
    requires_grad: dict[str, bool]
    methods: list[Method] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)  # backbone parameters that a method trains
    replaced_head: dict[str, nn.Module] = field(default_factory=dict)  # classifier name -> the layer that was there
    num_classes: int | None = None  # of the replaced head
    originals: dict[str, Tensor] = field(default_factory=dict)  # of ``in_place``, before attach, where few enough
    frozen_mode: str = "eval"  # mode of frozen modules while the others train
    marks: dict[str, Mark] = field(default_factory=dict)  # by which a change of what ``fingerprint`` covers shows


class TrainMethod:
    """What ``model.train(mode)`` calls once a method is attached: frozen modules stay in the mode chosen for them.

    Every trainer calls ``model.train()`` before an epoch; torch's own would switch on the dropout of frozen blocks. An
    object on the model and not a class of its own, so that ``deepcopy`` and ``pickle`` take it along.
    """

    def __init__(self, model: nn.Module, record: Record) -> None:
        self.model, self.record = model, record

    def __call__(self, mode: bool = True) -> nn.Module:
        if mode and self.record.methods:
            set_modes(self.model, self.record.frozen_mode)
        else:
            of_class: Any = type(self.model)
            of_class.train(self.model, mode)
        return self.model


@dataclass
class Merged:
    """What a reversible merge took off or wrote over, and what tells whether its result was touched since."""

    record: Record
    grafts: dict[str, graft.PoppedGrafts]  # by module name
    weights: dict[str, Tensor]  # those that folding changed, as they were
    heads: dict[str, nn.Module]  # classifier name -> the layer that was there
    requires_grad: dict[str, bool]
    training: dict[str, bool]  # mode of every module
    digests: dict[str, str]  # of the merged model


def find(model: nn.Module) -> Record | None:
    """Find the record of ``model``; None if nothing was attached.

    Raises:
        ValueError: ``model`` wraps the tuned model (DDP, DataParallel, torch.compile), or is disabled at the moment.
    """
    _check_unwrapped(model)
    if model in DISABLED:
        raise ValueError("this model is disabled by vp.disabled: leave its with block first")
    return model.__dict__.get("_tuning_record")


def find_merged(model: nn.Module) -> Merged | None:
    """Find what ``model`` remembers of a reversible merge; None if there was none.

    Raises:
        ValueError: as of ``find``.
    """
    _check_unwrapped(model)
    return model.__dict__.get("_tuning_merged")


def _check_unwrapped(model: nn.Module) -> None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"this model is wrapped in {type(model).__name__}: pass model.module")
    if "_orig_mod" in model._modules:
        raise ValueError("this model is compiled by torch.compile: pass model._orig_mod")


def get_or_create_record(model: nn.Module) -> Record:
    """Get the record of ``model``; the first call takes the fingerprint and remembers ``requires_grad``.

    Raises:
        ValueError: as of ``find``; ``model`` is cut into shards; or it remembers a reversible merge, which tuning on
            would make useless.
    """
    record = find(model)
    if any(map(is_sharded_module, model.modules())):
        raise ValueError("this model is cut into shards by fully_shard: attach and give it its head first, then shard")
    if find_merged(model) is not None:
        raise ValueError(
            "this model was merged with reversible=True and remembers the way back: take it with vp.unmerge(model), or "
            "give it up with vp.merge(model), before anything new is put on"
        )
    if record is None:
        flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        record = Record(fingerprint(model), flags, marks=mark(model))
        set_record(model, record)
    return record


def set_record(model: nn.Module, record: Record) -> None:
    """Give ``model`` this record, and a ``train`` that leaves frozen modules in their mode."""
    model.__dict__["_tuning_record"] = record
    model.__dict__["train"] = TrainMethod(model, record)


def clear_record(model: nn.Module) -> None:
    """Drop the record; ``model.train`` is that of its class again."""
    model.__dict__.pop("_tuning_record", None)
    model.__dict__.pop("train", None)


def set_merged(model: nn.Module, merged: Merged) -> None:
    """Let ``model`` remember a reversible merge."""
    model.__dict__["_tuning_merged"] = merged


def clear_merged(model: nn.Module) -> None:
    """Drop what ``model`` remembers of a reversible merge."""
    model.__dict__.pop("_tuning_merged", None)


def current_fingerprint(model: nn.Module) -> str:
    """Return the fingerprint of the frozen weights as they are now, which may have been loaded after ``attach``.

    Raises:
        ValueError: they were, and a method trains some that the fingerprint covers, whose values before are not known.
    """
    tuning = find(model)
    if tuning is None or not tuning.fingerprint:
        return fingerprint(model)
    trained = set(tuning.in_place)
    changed = [name for name in find_changed(model, tuning.marks) if name not in trained]
    if not changed:
        return tuning.fingerprint
    lost = [name for name in tuning.marks if name in trained]
    if lost:
        raise ValueError(
            f"weights were loaded after a method was attached ({name_some(changed)} changed), and what was loaded for "
            f"{name_some(lost)} was trained since, so that nothing tells these weights again: load weights first and "
            "attach then; vp.tuned_state_dict and vp.load_tuned carry over what was trained"
        )
    return fingerprint(model)


def note_weights(model: nn.Module, tuning: Record) -> None:
    """Take the fingerprint anew where weights were loaded since it was taken."""
    if not tuning.fingerprint or find_changed(model, tuning.marks):
        tuning.fingerprint, tuning.marks = fingerprint(model), mark(model)


def head_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the classification head(s), by their name in the ``state_dict``."""
    found: dict[str, Tensor] = {}
    for name in classifier_names(model):
        state = model.get_submodule(name).state_dict(keep_vars=True)
        found.update({f"{name}.{key}": tensor for key, tensor in state.items()})
    return found


def graft_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers that grafts added, by their name in the ``state_dict``.

    Without ``made_of_weights`` of a module: buffers that attaching makes of the frozen weights, the same each time. A
    whole ``state_dict``, which brings frozen weights along, has them too.
    """
    found: dict[str, Tensor] = {}
    for module_name, module in graft.grafts(model):
        prefix = f"{module_name}." if module_name else ""
        for name, child in graft.children(module):
            if isinstance(child, nn.Parameter):
                found[prefix + name] = child
            else:
                state, made = child.state_dict(keep_vars=True), _made_of_weights(child)
                found.update({f"{prefix}{name}.{key}": t for key, t in state.items() if key not in made})
    return found


def _made_of_weights(child: nn.Module) -> set[str]:
    parts = ((f"{name}." if name else "", part) for name, part in child.named_modules())
    return {start + name for start, part in parts for name in getattr(part, "made_of_weights", ())}


def tuned_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything that tuning may change: tensors of grafts, backbone parameters trained in place, the head."""
    record = find(model)
    if record and record.methods:
        known = set(record.in_place)
        stray = [name for name, p in backbone_parameters(model) if p.requires_grad and name not in known]
        if stray:
            shown = ", ".join(stray[:5]) + (f" and {len(stray) - 5} more" if len(stray) > 5 else "")
            raise ValueError(
                f"{shown}: backbone parameters unfrozen by hand belong to no method, so that no adapter could hold "
                "them; freeze them, or attach a method that trains them"
            )
    in_place = {name: model.get_parameter(name) for name in (record.in_place if record else [])}
    return {**graft_tensors(model), **in_place, **head_tensors(model)}


def backbone_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the backbone proper: neither of a graft nor of the head."""
    added = {**graft_tensors(model), **head_tensors(model)}
    return ((name, parameter) for name, parameter in model.named_parameters() if name not in added)


def count_packed(model: nn.Module) -> int:
    """Return the number of weights that ``model`` keeps packed."""
    return sum(layer.in_features * layer.out_features for layer in quantized_layers(model).values())


def restore_head(model: Any, record: Record) -> None:
    """Put the head back that ``replace_head`` took out."""
    device = next(model.parameters()).device
    for name, layer in record.replaced_head.items():
        model.set_submodule(name, layer.to(device))
    if record.replaced_head:
        model.num_classes = record.num_classes
