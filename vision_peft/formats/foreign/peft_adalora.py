"""AdaLoRA as HF peft saves it: A, E and B of the rows that were kept, by a pattern of booleans in the config."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.fields import fits
from vision_peft.formats.foreign.peft_names import CONFIG, LAYERS, PREFIX, find_blocks, find_missing, is_in_block, short
from vision_peft.formats.foreign.tensors import State, no_leftovers
from vision_peft.methods.adalora import TARGETS, AdaLoRA, AdaLoRALinear
from vision_peft.tuning import graft

_TENSOR = re.compile(r"(?P<layer>.*)\.lora_(?P<part>[AEB])")
STEPS = 1000  # of which the shares of a training are written


def read_adalora(state: State, config: Mapping[str, Any]) -> tuple[AdaLoRA, State]:
    """Return the method, which allocates no more, and its tensors; rows that were dropped come back with E at 0."""
    fields = {ours: config[theirs] for ours, theirs in _NAMES.items() if config.get(theirs) is not None}
    total: Any = config.get("total_step")
    if fits(total, int) and total > 0:
        fields |= {"warmup": config.get("tinit", 0) / total, "final": config.get("tfinal", 0) / total}
    patterns = config.get("rank_pattern") or {}
    if not fits(patterns, dict[str, Any]):
        raise ValueError(f"rank_pattern in {CONFIG} must map names of tensors to lists of booleans; got {patterns!r}")
    layers: dict[str, dict[str, Tensor]] = {}
    for name in list(state):
        match = _TENSOR.fullmatch(name)
        if match and is_in_block(match["layer"]):
            layers.setdefault(match["layer"], {})[match["part"]] = state.pop(name)
    no_leftovers(state, "HF peft AdaLoRA")
    if not layers:
        raise ValueError("not a HF peft AdaLoRA file: no lora_E in any block")
    if missing := find_missing(layers):
        raise ValueError(
            f"AdaLoRA here is on the same layers of all its blocks; this adapter has nothing on {missing[0]}"
        )
    targets = {"qkv" if LAYERS[short(layer)] in "qkv" else LAYERS[short(layer)] for layer in layers}
    fields |= {"blocks": find_blocks(config, layers)}
    method = AdaLoRA(**fields, targets=tuple(t for t in TARGETS if t in targets), allocate=False)
    tuned: State = {}
    for layer, parts in layers.items():
        if parts.keys() != set("AEB"):
            raise ValueError(f"not a complete HF peft AdaLoRA file: {layer} has only {', '.join(sorted(parts))}")
        kept = _kept(patterns, layer, method.rank)
        for part, tensor in parts.items():
            tuned[f"{layer}.adalora.{part}"] = _spread(f"{layer}.lora_{part}", tensor, kept, 1 if part == "B" else 0)
    return method, tuned


_NAMES = {
    "rank": "init_r",
    "target_rank": "target_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "every": "deltaT",
    "beta1": "beta1",
    "beta2": "beta2",
}


def _kept(patterns: Mapping[str, Any], layer: str, rank: int) -> Tensor:
    """Return which rows of ``layer`` the file holds."""
    kept = patterns.get(f"{layer}.lora_E", [True] * rank)
    if not fits(kept, list[bool]) or len(kept) != rank:
        raise ValueError(f"rank_pattern in {CONFIG} must hold {rank} booleans for {layer}.lora_E; got {kept!r}")
    return torch.tensor(kept, dtype=torch.bool)


def _spread(name: str, tensor: Tensor, kept: Tensor, axis: int) -> Tensor:
    """Put the rows (of B columns) of ``tensor`` where ``kept`` says, zeros elsewhere."""
    if tensor.ndim != 2 or tensor.shape[axis] != kept.sum() or tensor.shape[1 - axis] == 0:
        wanted = ("any", int(kept.sum())) if axis else (int(kept.sum()), "any")
        raise ValueError(f"shape of {name}: wanted ({wanted[0]}, {wanted[1]}), got {tuple(tensor.shape)}")
    rows = torch.zeros(len(kept), tensor.shape[1 - axis], dtype=tensor.dtype, device=tensor.device)
    rows[kept] = tensor.T if axis else tensor
    return rows.T.contiguous() if axis else rows


def write_adalora(model: nn.Module, method: AdaLoRA) -> tuple[State, dict[str, Any]]:
    """Return the tensors of ``model`` by HF peft's names, all rows, and the config of that AdaLoRA."""
    layers: dict[str, Any] = {name: m for name, m in graft.grafts(model) if AdaLoRALinear in graft.kinds(m)}
    state: State = {}
    for name, layer in layers.items():
        state |= {f"{PREFIX}{name}.lora_{part}": t for part, t in layer.adalora.named_parameters()}
    return state, {
        "peft_type": "ADALORA",
        **{theirs: getattr(method, ours) for ours, theirs in _NAMES.items()},
        "target_r": max(round(method.target_rank), 1),
        "tinit": round(method.warmup * STEPS),
        "tfinal": round(method.final * STEPS),
        "total_step": STEPS,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": list(layers),
        "rank_pattern": None,
    }
