"""LoRA folders of HF peft (0.21) on timm models: ``adapter_config.json`` and ``adapter_model.safetensors``.

Such a folder holds no backbone. It tells everything about the method; the head is in it where the run had
``modules_to_save=["head"]``.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from vision_peft.formats.foreign.joined_slices import cut, join, slices_in
from vision_peft.formats.foreign.read import Foreign, read_tensors
from vision_peft.formats.foreign.tensors import State, no_leftovers, split_head, take
from vision_peft.methods.lora import TARGETS, LoRA
from vision_peft.safe_files import read_file, write_together
from vision_peft.strict_json import parse_json
from vision_peft.tuning import graft, record
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of
from vision_peft.tuning.heads import plain_head
from vision_peft.tuning.low_rank_layers import LoRAQKV

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MAX_CONFIG = 2**24  # bytes
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<layer>.*)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
_LAYERS = {
    "attn.qkv": "qkv",
    "attn.q_proj": "q",
    "attn.k_proj": "k",
    "attn.v_proj": "v",
    "attn.proj": "proj",
    "mlp.fc1": "fc1",
    "mlp.fc1_g": "fc1",
    "mlp.fc1_x": "fc1",
    "mlp.fc2": "fc2",
}
_PARTS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_magnitude_vector": "magnitude"}
# Settings that make other tensors or another function of them, with the value that does not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "layers_to_transform": (None,),
    "layer_replication": (None,),
    "target_parameters": (None,),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),  # the others change the backbone too
}


def read_folder(folder: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Tensors of a folder, and its config as a keyword of ``read``.

    Raises:
        FileNotFoundError: one of the two files is absent.
        ValueError: they cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no HF peft adapter at {folder}: {CONFIG} is missing")
    try:
        config = parse_json(read_file(path, MAX_CONFIG))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    tensors = folder / (TENSORS if (folder / TENSORS).is_file() else PICKLE)
    if not tensors.is_file():
        raise FileNotFoundError(f"no HF peft adapter at {folder}: {TENSORS} is missing")
    return read_tensors(tensors), {"config": config}


def read(state: State, *, config: Any = None) -> Foreign:
    """Map the keys of HF peft; attach ``method`` to the backbone it was trained on and ``load_tuned`` the tensors.

    A pair of ``qkv`` that ``write`` joined is cut into its slices where its rank is not that of the other layers, or
    above the width; elsewhere it stays one pair, which computes the same. Separate q, k and v with equal A, as
    ``write`` gives them, are read as the target ``qkv``, which stores A once.

    Args:
        state: tensors of the folder.
        config: contents of its ``adapter_config.json``.

    Raises:
        ValueError: another method than LoRA, a setting that our LoRA does not have (such as a rank or scaling of one
            layer's own), or keys that are not of this code.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"HF peft tells its method in {CONFIG}: pass the folder, or config=... with the tensors")
    fields = _fields(config)
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    tuned, head = split_head({n: t for n, t in state.items() if n.startswith("head.")})
    tuned |= {n: t for n, t in state.items() if n.startswith("head_dist.")}
    state = {name: tensor for name, tensor in state.items() if name not in tuned}
    layers = _pairs(state)
    sized = {layer: _sized(config, fields, layer, parts) for layer, parts in layers.items()}
    _same("scaling", {layer: lora.scaling_of(lora.rank, lora.alpha) for layer, lora in sized.items()})
    fused = {layer: parts for layer, parts in layers.items() if _short(layer) == "attn.qkv"}
    slices = slices_in(list(fused.values()), {lora.rank for layer, lora in sized.items() if layer not in fused})
    pairs: dict[str, State] = {}  # where they sit in our model
    for layer, parts in layers.items():
        if slices and layer in fused:
            pairs |= {f"{layer}.lora.{name}": pair for name, pair in cut(parts, slices).items()}
        else:
            pairs[f"{layer}.lora"] = parts
    if not slices:
        _same("rank", {layer: lora.rank for layer, lora in sized.items()})
    rank = len(next(iter(pairs.values()))["A"])
    shared = _shared(layers)
    for layer in shared:
        if _short(layer) != "attn.q_proj":
            del pairs[f"{layer}.lora"]["A"]
    tuned |= {f"{seat}.{part}": tensor for seat, parts in pairs.items() for part, tensor in parts.items()}
    whole = [layer for layer in layers if not (slices and layer in fused)]
    targets = {"qkv" if layer in shared else _LAYERS[_short(layer)] for layer in whole}.union(slices)
    method = _resized(sized[(whole or list(layers))[0]], rank=rank)
    return Foreign(None, replace(method, targets=tuple(t for t in TARGETS if t in targets)), tuned, head)


def _pairs(state: State) -> dict[str, State]:
    """Take A, B and magnitude by name of the layer out of ``state``, which may hold nothing else."""
    layers: dict[str, State] = {}
    for name in list(state):
        match = _TENSOR.fullmatch(name)
        if match and "blocks." in name and _short(match["layer"]) in _LAYERS:
            shape = (None,) if match["part"] == "lora_magnitude_vector" else (None, None)
            layers.setdefault(match["layer"], {})[_PARTS[match["part"]]] = take(state, name, *shape)
    no_leftovers(state, "HF peft LoRA")
    if not layers:
        raise ValueError("not a HF peft LoRA file: no lora_A in any block")
    if incomplete := [layer for layer, parts in layers.items() if not {"A", "B"} <= parts.keys()]:
        raise ValueError(f"not a complete HF peft LoRA file: lora_A or lora_B is missing for {incomplete[0]}")
    return layers


def _shared(layers: dict[str, State]) -> list[str]:
    """Separate q, k and v layers where all three have one A in every attention, none elsewhere."""
    separate = [layer for layer in layers if _short(layer) in ("attn.q_proj", "attn.k_proj", "attn.v_proj")]
    for attention in {layer.rpartition(".")[0] for layer in separate}:
        found = [layers.get(f"{attention}.{letter}_proj") for letter in "qkv"]
        first, *others = [None if parts is None else parts["A"] for parts in found]
        if first is None or not all(A is not None and torch.equal(A, first) for A in others):
            return []
    return separate


def _short(layer: str) -> str:
    return ".".join(layer.split(".")[-2:])


def _sized(config: Mapping[str, Any], fields: dict[str, Any], layer: str, parts: State) -> LoRA:
    """Make the LoRA of one layer: HF PEFT's patterns may give it its own rank and alpha."""
    own = {"rank": _pattern(config, "rank_pattern", layer), "alpha": _pattern(config, "alpha_pattern", layer)}
    lora = LoRA(**{**fields, **{name: value for name, value in own.items() if value is not None}})
    if lora.rank != len(parts["A"]):
        raise ValueError(f"{CONFIG} says r={lora.rank} for {layer}, its tensors have rank {len(parts['A'])}")
    return lora


def _pattern(config: Mapping[str, Any], key: str, layer: str) -> Any:
    patterns = config.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{key} in {CONFIG} must map names of layers to numbers; got {patterns!r}")
    for name, value in patterns.items():
        if not re.fullmatch(r"[\w.]+", name):
            raise ValueError(f"{key} in {CONFIG} must name layers, regular expressions are not read; got {name!r}")
        if re.fullmatch(rf"(.*\.)?{name}", layer):  # HF peft's rule, in which a dot is any character
            return value
    return None


def _same(what: str, values: dict[str, float]) -> None:
    layers: dict[str, list[str]] = {}
    for layer, value in values.items():
        layers.setdefault(f"{value:g}", []).append(layer)
    if len(layers) > 1:
        shown = [
            f"{value} on {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for value, names in layers.items()
        ]
        raise ValueError(f"LoRA here has one {what} for all layers, this HF peft adapter has {'; '.join(shown)}")


def _resized(lora: LoRA, rank: int) -> LoRA:
    """``lora`` at another rank with the same scaling."""
    shrunk = rank / lora.rank
    return replace(lora, rank=rank, alpha=lora.alpha * (math.sqrt(shrunk) if lora.rslora else shrunk))


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("peft_type") != "LORA":
        raise ValueError(f"cannot read a HF peft adapter of type {config.get('peft_type')!r}: wanted LORA")
    problems = [f"{key}={config[key]!r}" for key, plain in _PLAIN.items() if key in config and config[key] not in plain]
    if problems:
        raise ValueError(f"this HF peft adapter has settings that LoRA here does not have: {', '.join(problems)}")
    return {
        "rank": config.get("r", 8),
        "alpha": config.get("lora_alpha", 8),
        "dropout": config.get("lora_dropout", 0.0),
        "rslora": config.get("use_rslora", False),
        "dora": config.get("use_dora", False),
    }


def write(model: nn.Module, folder: Path) -> Path:
    """Write the LoRA of ``model`` and its head so that ``PeftModel.from_pretrained(timm_model, folder)`` loads them.

    On a fused ``qkv`` HF peft knows one A for all rows only: n slices with a pair of rank r each are written as one
    pair of rank n r, B holding theirs as blocks, which is the same function. Layers that share one A (``qkv`` where q,
    k and v are separate) get a copy each. A BatchNorm head is written as the linear layer it folds into.

    Raises:
        ValueError: something else than one LoRA is attached, or timm would not call a layer that HF peft wraps.
    """
    tuning = record.find(model)
    methods = tuning.methods if tuning else []
    if len(methods) != 1 or not isinstance(methods[0], LoRA):
        got = ", ".join(type(method).__name__ for method in methods) or "nothing"
        raise ValueError(f"target hf_peft wants a model with one LoRA attached and nothing else, got {got}")
    method = methods[0]
    if "proj_output" in method.targets:
        raise ValueError(
            "LoRA's proj_output maps the output of a layer, HF peft's LoRA reads the input: use save_adapter, or merge "
            "and save the state_dict"
        )
    bypassed = family_of(model).separate_bias(blocks(model)[0].attn) is not None
    if bypassed and set(method.targets) & {"q", "k", "v", "qkv"}:
        raise ValueError(
            f"timm's {type(model).__name__} reads qkv.weight without calling qkv, so that HF peft's update would never "
            "act: use save_adapter, or merge and save the state_dict"
        )
    state: State = {}
    sizes: dict[str, tuple[int, float]] = {}  # layer -> rank and alpha
    for name, module in graft.grafts(model):
        layer: Any = module
        if isinstance(layer, LoRAQKV):
            tensors = join(layer)
        else:
            tensors = {"A": layer.lora.down().clone(), **dict(layer.lora.named_parameters())}
        rank = len(tensors["A"])
        grown = rank / method.rank
        sizes[name] = rank, method.alpha * (math.sqrt(grown) if method.rslora else grown)
        state |= {f"{_PREFIX}{name}.{theirs}": tensors[ours] for theirs, ours in _PARTS.items() if ours in tensors}
    heads = {name: plain_head(model.get_submodule(name)) for name in classifier_names(model)}
    head_state = {f"{name}.{key}": t for name, head in heads.items() for key, t in head.state_dict().items()}
    state |= {f"{_PREFIX}{name}": tensor for name, tensor in head_state.items()}
    usual = sizes[next(iter(sizes))] if len(set(sizes.values())) == 1 else (method.rank, method.alpha)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": usual[0],
        "lora_alpha": usual[1],
        "lora_dropout": method.dropout,
        "use_rslora": method.rslora,
        "use_dora": method.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": list(sizes),
        "modules_to_save": list(heads) if head_state else None,
        "rank_pattern": {name: rank for name, (rank, _) in sizes.items() if rank != usual[0]},
        "alpha_pattern": {name: alpha for name, (_, alpha) in sizes.items() if alpha != usual[1]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        TENSORS: safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in state.items()}, {"format": "pt"}),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
    }
    write_together(folder, contents)
    return folder
