"""VeRA as HF peft saves it: two vectors for every layer, with the shared matrices or without."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from vision_peft.formats.foreign.peft_names import LAYERS, PREFIX, find_blocks, find_missing, is_in_block, short
from vision_peft.formats.foreign.tensors import State, no_leftovers, take
from vision_peft.methods.vera import TARGETS, VeRA, VeRALinear
from vision_peft.tuning import graft

_TENSOR = re.compile(r"(?P<layer>.*)\.vera_lambda_(?P<part>[bd])")
_SHARED = {"base_model.vera_A": "A", "base_model.vera_B": "B"}
_NAMES = {"rank": "r", "d_initial": "d_initial", "dropout": "vera_dropout", "seed": "projection_prng_key"}


def read_vera(state: State, config: Mapping[str, Any]) -> tuple[VeRA, State]:
    """Return the method and its tensors; without the shared matrices they are drawn from the seed as there."""
    fields = {ours: config[theirs] for ours, theirs in _NAMES.items() if config.get(theirs) is not None}
    shared = {part: take(state, name, None, None) for name, part in _SHARED.items() if name in state}
    if len(shared) == 1:
        raise ValueError("not a complete HF peft VeRA file: it holds one of vera_A and vera_B")
    tuned: State = {}
    layers: list[str] = []
    for name in list(state):
        match = _TENSOR.fullmatch(name)
        if match and is_in_block(match["layer"]):
            tuned[f"{match['layer']}.vera.{match['part']}"] = take(state, name, None)
            layers.append(match["layer"])
    no_leftovers(state, "HF peft VeRA")
    if not layers:
        raise ValueError("not a HF peft VeRA file: no vera_lambda_b in any block")
    if missing := find_missing(layers):
        raise ValueError(f"VeRA here is on the same layers of all its blocks; this adapter has nothing on {missing[0]}")
    targets = {"qkv" if LAYERS[short(layer)] in "qkv" else LAYERS[short(layer)] for layer in layers}
    fields |= {"blocks": find_blocks(config, layers)}
    method = VeRA(**fields, targets=tuple(t for t in TARGETS if t in targets), save_projection=bool(shared))
    first = min(layers, key=lambda layer: (*_block(layer), list(LAYERS).index(short(layer))))
    return method, tuned | {f"{first}.vera_projections.{part}": tensor for part, tensor in shared.items()}


def _block(layer: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"(?<=\.)\d+(?=\.)", layer))


def write_vera(model: nn.Module, method: VeRA) -> tuple[State, dict[str, Any]]:
    """Return the tensors of ``model`` by HF peft's names and the config of that VeRA."""
    layers: dict[str, Any] = {name: m for name, m in graft.grafts(model) if VeRALinear in graft.kinds(m)}
    state: State = {}
    for name, layer in layers.items():
        state |= {f"{PREFIX}{name}.vera_lambda_{part}": t for part, t in layer.vera.named_parameters()}
    if method.save_projection:
        (shared,) = next(iter(layers.values())).vera_shared
        state |= {name: getattr(shared, part) for name, part in _SHARED.items()}
    return state, {
        "peft_type": "VERA",
        **{theirs: getattr(method, ours) for ours, theirs in _NAMES.items()},
        "save_projection": method.save_projection,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_weights": True,
        "target_modules": list(layers),
    }
