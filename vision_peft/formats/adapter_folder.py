"""Save and load an adapter folder: ``adapter.safetensors`` (tuned tensors, head) and ``adapter.json`` (what they are).

The tensors' metadata repeats the description, so that a save that was killed between its two files leaves the new
adapter and not a pair that does not fit.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vision_peft.backbones.provenance import backbone_name
from vision_peft.formats.adapter_files import INFO, METADATA, TENSORS, check_sizes, read_info, read_tensors
from vision_peft.formats.adapter_info import (
    FORMAT_VERSION,
    WITHOUT_TASK,
    AdapterInfo,
    recorded_method,
    tensors_sha256,
    to_text,
)
from vision_peft.formats.backbone_record import full_name, record_backbone, recorded_size
from vision_peft.printable import name_some, printable, warn
from vision_peft.safe_files import write_together
from vision_peft.tuning import record
from vision_peft.tuning.attach import attach_for_loading, detach, replace_head
from vision_peft.tuning.backbone import architecture, classifier_names
from vision_peft.tuning.bake import baked_head_kind, baked_state_dict
from vision_peft.tuning.known_heads import find_head_kind, head_kind
from vision_peft.tuning.method import Method, one_of
from vision_peft.tuning.packed_linear import quantized_as
from vision_peft.tuning.state import count_parameters, load_tuned, tuned_state_dict


def save_adapter(
    model: Any,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    input_config: Mapping[str, Any] | None = None,
    temperature: float | None = None,
    task: Mapping[str, Any] | None = None,
    keep_reparametrization: bool = False,
) -> Path:
    """Write what ``model`` learned to ``folder``; files of an older adapter there are replaced together.

    Args:
        model: a model with a method attached.
        folder: made where it is absent; other files in it are left alone.
        class_names: one per class, stored for whoever loads the adapter.
        input_config: mean, std, size, interpolation, ... of the input, stored likewise.
        temperature: what logits are divided by before they become probabilities, see ``vision_peft.calibration``.
        task: what is answered, as ``vision_peft.tasks.record_task`` gives it; None: one of the classes.
        keep_reparametrization: store what trains (prefix MLP, prompt encoder) to train on later, not its constant.

    Returns:
        The folder.

    Raises:
        ValueError: nothing is attached, the number of names is not that of classes, weights were loaded after
            ``attach`` for which no adapter can be saved, or the head is none that ``replace_head`` makes.
    """
    tuning = record.find(model)
    if tuning is None or not tuning.methods:
        raise ValueError("no method is attached to this model: call attach(model, method) before save_adapter")
    if isinstance(class_names, str):
        raise ValueError(f"class_names must be a list of names; got the text {class_names!r}")
    if class_names is not None and task is None and len(class_names) != model.num_classes:
        raise ValueError(f"got {len(class_names)} class names for a head of {model.num_classes} classes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = tuned_state_dict(model) if keep_reparametrization else baked_state_dict(model)
    state = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    methods = [method if keep_reparametrization else method.baked() for method in tuning.methods]
    info = AdapterInfo(
        format_version=WITHOUT_TASK if task is None else FORMAT_VERSION,
        methods=[{"name": method.name, "fields": method.recorded_fields()} for method in methods],
        head=head_kind(model) if keep_reparametrization else baked_head_kind(model),
        num_classes=model.num_classes,
        backbone=record_backbone(model),
        fingerprint=_fingerprint_for(model, tuning),
        tensors_sha256=tensors_sha256(state),
        class_names=None if class_names is None else list(class_names),
        input=None if input_config is None else dict(input_config),
        counts=count_parameters(model)._asdict(),
        toolkit_version=version("vision_peft"),
        temperature=temperature,
        task=None if task is None else dict(task),
    )
    text = to_text(info)
    contents = {TENSORS: safetensors.torch.save(state, {METADATA: text}), INFO: text.encode()}
    write_together(folder, contents)
    return folder


def _fingerprint_for(model: nn.Module, tuning: record.Record) -> str:
    """Return the fingerprint that the adapter records, of the weights as they are now."""
    found = record.current_fingerprint(model)
    if found == tuning.fingerprint or not tuning.fingerprint:
        return found
    for method in tuning.methods:
        problem = method.find_misfit(model)
        if problem is not None:
            raise ValueError(f"weights were loaded after {method.name} was attached: {problem}")
        if method.starts_from_weights:
            warn(
                f"weights were loaded after {method.name} was attached, which had started from those before: the "
                "adapter records and fits the weights of now, but its training did not start where it would have with "
                "attach after loading",
                stacklevel=3,
            )
    return found


def load_adapter(
    model: Any, folder: str | Path, *, head: str = "load", allow_backbone_mismatch: bool = False
) -> nn.Module:
    """Attach the recorded methods to ``model`` and load their tensors.

    Args:
        model: the backbone the adapter was trained on, nothing attached; with ``num_classes=0`` it gets the head. At
            another image size (pixels) than the adapter's it warns.
        folder: as written by ``save_adapter``.
        head: ``load`` takes the recorded head; ``keep`` leaves the model's own.
        allow_backbone_mismatch: load onto other frozen weights of the same architecture all the same.

    Returns:
        The same model, in the mode it was in.

    Raises:
        FileNotFoundError: no adapter there.
        ValueError: damaged files, another backbone, depth or head; both sides are shown, and the model is unchanged.
    """
    one_of("head", head, ("load", "keep"))
    folder = Path(folder)
    info, where = read_info(folder)
    known = record.find(model)
    if known is not None and known.methods:
        raise ValueError("this model has methods attached already: detach(model) first, or load_tuned into them")
    _check_backbone(model, info, folder, where, allow_backbone_mismatch)
    if head == "load" and model.num_classes not in (0, info.num_classes):
        raise ValueError(_other_head(model.num_classes, info, folder))
    methods = [recorded_method(entry, where) for entry in info.methods]
    state = read_tensors(folder, info, where)
    check_sizes(info, state, where)
    with torch.device("meta"):  # first on a model without storage: what does not fit takes no memory
        _put_on(_without_storage(model), info, methods, state, head)
    heads, num_classes = {name: model.get_submodule(name) for name in classifier_names(model)}, model.num_classes
    own_head = None if known is None else dataclasses.replace(known, methods=[], in_place=[])
    try:
        _put_on(model, info, methods, state, head)
    except Exception:
        detach(model)
        if own_head is not None:  # set by replace_head before this call: detach took it out
            for name, layer in heads.items():
                model.set_submodule(name, layer)
            model.num_classes = num_classes
            record.set_record(model, own_head)
        raise
    return model


def _put_on(model: Any, info: AdapterInfo, methods: Sequence[Method], state: dict[str, Tensor], head: str) -> None:
    fits = (model.num_classes, find_head_kind(model)) == (info.num_classes, info.head)
    if head == "load" and info.num_classes and not fits:
        replace_head(model, info.head, info.num_classes)
    for method in methods:
        attach_for_loading(model, method)
    load_tuned(model, state, head=head)


def _without_storage(model: nn.Module) -> nn.Module:
    """Copy the model to the meta device."""
    tensors: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    return copy.deepcopy(model, tensors)


def _other_head(classes: int, info: AdapterInfo, folder: Path) -> str:
    """Words for a model whose head has another number of classes than the adapter's."""
    keep = "pass head='keep' to keep the model's own head"
    if info.num_classes == 0:
        return (
            f"the adapter in {folder} has no head, the model has one of {classes} classes: {keep}, or create the "
            "backbone with num_classes=0 for features"
        )
    names = f" ({', '.join(map(printable, info.class_names[:5]))}, ...)" if info.class_names else ""
    return (
        f"the adapter in {folder} has {info.num_classes} classes{names}, the model has {classes}: create the backbone "
        f"with num_classes={info.num_classes} or 0, or {keep}"
    )


def _check_backbone(model: Any, info: AdapterInfo, folder: Path, where: str, allow_mismatch: bool) -> None:
    wanted, got = info.backbone.get("architecture"), architecture(model)
    if not isinstance(wanted, dict):
        raise ValueError(f"{where}: backbone.architecture is missing")
    # Another image size is no other backbone: the tuned tensors do not depend on it. What was learned does.
    wanted, got = {"in_chans": 3, **wanted}, {"in_chans": 3, **got}  # RGB is not recorded
    differing = [key for key in {**got, **wanted} if key != "img_size" and wanted.get(key) != got.get(key)]
    names = printable(full_name(info.backbone)), backbone_name(model)
    if differing:
        details = name_some((f"{key}: adapter {wanted.get(key)}, model {got.get(key)}" for key in differing), 20)
        raise ValueError(f"the adapter in {folder} belongs to another backbone ({names[0]}, not {names[1]}): {details}")
    found = record.current_fingerprint(model)
    if found != info.fingerprint and not allow_mismatch:
        raise ValueError(
            f"the adapter in {folder} was trained on other frozen weights: {names[0]} with fingerprint "
            f"{printable(info.fingerprint[:12])}, the model is {names[1]} with {found[:12]}. Load the weights it was "
            "trained on, or pass allow_backbone_mismatch=True to vp.load_adapter"
            f"{_precision_hint(model)}"
        )
    trained_as, kept_as = info.backbone.get("quantized"), quantized_as(model)
    if trained_as != kept_as:
        warn(
            f"the adapter in {folder} was trained over weights in {trained_as or 'floating point'}, those of the model "
            f"are in {kept_as or 'floating point'}: its logits will differ slightly; vp.load({str(folder)!r}) "
            "builds it all",
            stacklevel=3,
        )
    size, own = recorded_size(info.backbone), tuple(got["img_size"])
    if size is not None and own and size != own:
        trained, takes = (f"{height} x {width}" for height, width in (size, own))
        warn(
            f"the adapter in {folder} was trained at {trained} pixels, the model takes {takes}: its accuracy will be "
            f"another; create the backbone with img_size={size}, or let vp.load({str(folder)!r}) build all of it",
            stacklevel=3,
        )


def _precision_hint(model: nn.Module) -> str:
    dtype = next(model.parameters()).dtype
    return "" if dtype == torch.float32 else f" (its weights are rounded to {dtype}: load before you convert)"
