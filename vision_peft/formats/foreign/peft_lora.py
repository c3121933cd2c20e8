"""LoRA as HF peft saves it: plain, DoRA, rsLoRA, PiSSA, OLoRA, EVA; with patterns, biases, a patch embedding."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.formats.foreign.joined_slices import cut, join, slices_in
from vision_peft.formats.foreign.peft_names import (
    CONFIG,
    LAYERS,
    PATCH_EMBED,
    PREFIX,
    SEPARATE,
    find_blocks,
    find_missing,
    is_in_block,
    look_up,
    short,
)
from vision_peft.formats.foreign.tensors import State, no_leftovers, take
from vision_peft.methods.lora import OF_WEIGHT, TARGETS, LoRA
from vision_peft.tuning import graft
from vision_peft.tuning.low_rank import LowRank
from vision_peft.tuning.low_rank_layers import LoRALinear, LoRAQKV

_TENSOR = re.compile(r"(?P<layer>.*)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector)")
_PARTS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_B.bias": "bias", "lora_magnitude_vector": "magnitude"}
# Settings that make other tensors or another function of them, with the value that does not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "layer_replication": (None,),
    "target_parameters": (None,),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", *OF_WEIGHT),  # others change the backbone too
}


def read_lora(state: State, config: Mapping[str, Any], head: set[str]) -> tuple[LoRA, State, State]:
    """Return the method, its tensors and what is added to tensors of a head among ``head`` that has a LoRA itself.

    A pair of ``qkv`` that ``write_lora`` joined is cut into its slices where its rank is not that of the other layers,
    or above the width; elsewhere it stays one pair, which computes the same. Separate q, k and v with equal A are read
    as the target ``qkv``, which stores A once.
    """
    fields = _fields(config)
    layers = _pairs(state, head)
    sized = {layer: _sized(config, fields, layer, parts) for layer, parts in layers.items()}
    update = {}
    for layer in head & set(layers):
        parts = layers.pop(layer)
        scaling = sized[layer].scaling_of(sized[layer].rank, sized.pop(layer).alpha)
        update[f"{layer}.weight"] = scaling * parts["B"] @ parts["A"]
        update |= {f"{layer}.bias": scaling * parts["bias"]} if "bias" in parts else {}
    if update and fields["init"] in OF_WEIGHT:
        raise ValueError(f"init_lora_weights={fields['init']!r} on the head, whose weights this folder does not hold")
    if not layers:
        raise ValueError("not a HF peft LoRA file: no lora_A in any block")
    fused = {layer: parts for layer, parts in layers.items() if short(layer) == "attn.qkv"}
    others = [layer for layer in layers if not is_in_block(layer) and layer != PATCH_EMBED]
    ranks = {lora.rank for layer, lora in sized.items() if layer not in fused}
    slices = () if others else slices_in(list(fused.values()), ranks)
    sites: dict[str, LoRA] = {}  # by the name that our patterns know
    pairs: dict[str, State] = {}  # where they sit in our model
    for layer, parts in layers.items():
        if slices and layer in fused:
            for name, pair in cut(parts, slices).items():
                pairs[f"{layer}.lora.{name}"] = pair
                sites[f"{layer}.{name}"] = _resized(sized[layer], rank=len(pair["A"]))
        else:
            pairs[f"{layer}.lora"] = parts
            sites[layer] = sized[layer]
    shared = [] if others or fields["init"] in OF_WEIGHT else _shared(layers)
    for layer in shared:
        if short(layer) != SEPARATE[0]:
            del pairs[f"{layer}.lora"]["A"]
        lora = sites.pop(layer)
        sites[f"{layer.rpartition('.')[0]}.qkv"] = lora
    whole = [layer for layer in layers if not (slices and layer in fused)]
    targets = {"qkv" if layer in shared else _target(layer) for layer in whole}.union(slices)
    if others:
        targets = {"all-linear"} | (targets & {"patch_embed"})
    tuned = {f"{seat}.{part}": tensor for seat, parts in pairs.items() for part, tensor in parts.items()}
    left_out = find_missing(filter(is_in_block, layers))
    method = replace(_with_patterns(sites, left_out), blocks=find_blocks(config, layers))
    return replace(method, targets=tuple(t for t in TARGETS if t in targets)), tuned, update


def _target(layer: str) -> str:
    return "patch_embed" if layer == PATCH_EMBED else LAYERS.get(short(layer), "all-linear")


def _with_patterns(sites: dict[str, LoRA], left_out: list[str]) -> LoRA:
    """Make one method of those of all sites: the most frequent rank and alpha, with patterns for the others."""
    sites = {
        name: replace(lora, alpha=float(f"{lora.alpha:.12g}")) for name, lora in sites.items()
    }  # 5.000000000000001
    rank = Counter(lora.rank for lora in sites.values()).most_common(1)[0][0]
    alpha = Counter(lora.alpha for lora in sites.values()).most_common(1)[0][0]
    ranks = {name: lora.rank for name, lora in sites.items() if lora.rank != rank}
    alphas = {name: lora.alpha for name, lora in sites.items() if lora.alpha != alpha}
    ranks |= dict.fromkeys(left_out, 0)
    return replace(next(iter(sites.values())), rank=rank, alpha=alpha, rank_pattern=ranks, alpha_pattern=alphas)


def _pairs(state: State, head: set[str]) -> dict[str, State]:
    """Take A, B, bias and magnitude by name of the layer out of ``state``, which may hold nothing else."""
    layers: dict[str, State] = {}
    for name in list(state):
        match = _TENSOR.fullmatch(name)
        if match:
            kernel = match["layer"] == PATCH_EMBED
            part = _PARTS[match["part"]]
            axes = state[name].ndim if kernel and state[name].ndim in (4, 5) else 2
            tensor = take(state, name, *[None] * (1 if part in ("bias", "magnitude") else axes))
            if kernel and part == "B":
                tensor = tensor.flatten(1)  # a 1 x 1 convolution
            layers.setdefault(match["layer"], {})[part] = tensor
    no_leftovers(state, "HF peft LoRA")
    if incomplete := [layer for layer, parts in layers.items() if not {"A", "B"} <= parts.keys()]:
        raise ValueError(f"not a complete HF peft LoRA file: lora_A or lora_B is missing for {incomplete[0]}")
    return layers


def _shared(layers: dict[str, State]) -> list[str]:
    """Separate q, k and v layers where all three have one A in every attention, none elsewhere."""
    separate = [layer for layer in layers if short(layer) in SEPARATE]
    for attention in {layer.rpartition(".")[0] for layer in separate}:
        found = [layers.get(f"{attention}.{letter}_proj") for letter in "qkv"]
        first, *others = [None if parts is None else parts["A"] for parts in found]
        if first is None or not all(A is not None and torch.equal(A, first) for A in others):
            return []
    return separate


def _sized(config: Mapping[str, Any], fields: dict[str, Any], layer: str, parts: State) -> LoRA:
    """Make the LoRA of one layer: HF PEFT's patterns may give it its own rank and alpha."""
    own = {"rank": look_up(config, "rank_pattern", layer), "alpha": look_up(config, "alpha_pattern", layer)}
    lora = LoRA(**{**fields, **{name: value for name, value in own.items() if value is not None}})
    if lora.rank != len(parts["A"]):
        raise ValueError(f"{CONFIG} says r={lora.rank} for {layer}, its tensors have rank {len(parts['A'])}")
    return lora


def _resized(lora: LoRA, rank: int) -> LoRA:
    """``lora`` at another rank with the same scaling."""
    shrunk = rank / lora.rank
    return replace(lora, rank=rank, alpha=lora.alpha * (math.sqrt(shrunk) if lora.rslora else shrunk))


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.startswith("pissa_niter"):
        raise ValueError(
            f"init_lora_weights={init!r} took a randomised SVD off the weights, which no file holds and nobody can "
            "repeat, so that HF peft does not give this model again either: save it as plain LoRA, with "
            "path_initial_model_for_weight_conversion"
        )
    problems = [f"{key}={config[key]!r}" for key, plain in _PLAIN.items() if key in config and config[key] not in plain]
    if problems:
        raise ValueError(f"this HF peft adapter has settings that LoRA here does not have: {', '.join(problems)}")
    return {
        "rank": config.get("r", 8),
        "alpha": config.get("lora_alpha", 8),
        "dropout": config.get("lora_dropout", 0.0),
        "rslora": config.get("use_rslora", False),
        "dora": config.get("use_dora", False),
        "lora_bias": config.get("lora_bias", False),
        "init": init if init in OF_WEIGHT else "kaiming",
    }


def write_lora(model: nn.Module, method: LoRA) -> tuple[State, dict[str, Any]]:
    """Return the tensors of ``model`` by HF peft's names, and the config of that LoRA.

    On a fused ``qkv`` HF peft knows one A for all rows only: n slices with a pair of rank r each are written as one
    pair of rank n r, B holding theirs as blocks, which is the same function. Layers that share one A (``qkv`` where q,
    k and v are separate) get a copy each.

    PiSSA and OLoRA are written as such where HF peft would take the same part off every weight (it cannot off a
    convolution), else as plain LoRA of twice the rank, with A₀ and -B₀ beside A and B.

    Raises:
        ValueError: what HF peft's LoRA cannot express.
    """
    if "proj_output" in method.targets:
        raise ValueError(
            "LoRA's proj_output maps the output of a layer, HF peft's LoRA reads the input: use save_adapter, or merge "
            "and save the state_dict"
        )
    layers: dict[str, Any] = dict(graft.grafts(model))
    alone = all(isinstance(layer, LoRALinear) and not layer.lora.first for layer in layers.values())
    as_such = method.init in OF_WEIGHT and alone and not (method.dora or method.lora_bias)
    state: State = {}
    sizes: dict[str, tuple[int, float]] = {}  # layer -> rank and alpha
    for name, layer in layers.items():
        tensors, scaling = (
            join(layer) if isinstance(layer, LoRAQKV) else (_pair(layer.lora, as_such), layer.lora.scaling)
        )
        rank = len(tensors["A"])
        sizes[name] = rank, scaling * (math.sqrt(rank) if method.rslora else rank)
        if tensors["A"].ndim > 2:
            tensors["B"] = tensors["B"].unflatten(1, (rank, *[1] * (tensors["A"].ndim - 2)))
        state |= {f"{PREFIX}{name}.{theirs}": tensors[ours] for theirs, ours in _PARTS.items() if ours in tensors}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    return state, {
        "peft_type": "LORA",
        "r": usual[0],
        "lora_alpha": usual[1],
        "lora_dropout": method.dropout,
        "use_rslora": method.rslora,
        "use_dora": method.dora,
        "lora_bias": method.lora_bias,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": method.init if as_such else True,
        "target_modules": list(sizes),
        "rank_pattern": {name: rank for name, (rank, _) in sizes.items() if rank != usual[0]},
        "alpha_pattern": {name: alpha for name, (_, alpha) in sizes.items() if alpha != usual[1]},
    }


def _pair(update: LowRank, as_such: bool) -> dict[str, Tensor]:
    A, B = (update.down(), update.B) if as_such else update.on_original()
    return {**dict(update.named_parameters()), "A": A.clone(), "B": B}
