"""Checkpoints of visinf/adapter_plus@191c4ab: adapters, LoRA or prompts and the head, for a timm backbone of your own.

Keys may carry the prefix ``vit.``, as its released code saves them. Its LoRA is read as ``LoRA``, whose target
``proj_output`` is the location ``o``, and its prompts as ``VPT``: they are the same functions.
"""

from typing import Any

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, split_head, take
from vision_peft.methods.adapter_plus import POSITIONS, AdapterPlus
from vision_peft.methods.lora import LoRA
from vision_peft.methods.vpt import VPT
from vision_peft.tuning.method import Method, one_of

_SEATS = {"intermediate": "drop_path2.", "houlsby": "drop_path2."}  # the others sit on the block itself
_LAYERS = {"bottleneck.1": "down_proj", "bottleneck.4": "up_proj", "norm_a": "norm"}
_LORA = {"q": "qkv.lora.q", "k": "qkv.lora.k", "v": "qkv.lora.v", "o": "proj.lora_output"}  # location: our seat


def read(state: State, *, position: str | None = None, scaling: float | None = None, drop_path: float = 0.1) -> Foreign:
    """Map the official keys.

    Args:
        state: tensors of the file.
        position: of the adapters (``config`` in conf/adapter); the file does not tell, so that adapters need it.
        scaling: the constant that scales adapters or LoRA; needed where no learned one is in the file.
        drop_path: rate of the adapters, of use for further training only.

    Raises:
        ValueError: keys that are not of this code, or one of the keywords is needed.
    """
    state = {name.removeprefix("vit."): tensor for name, tensor in state.items()}
    tuned, _ = split_head(state)
    state = {name: tensor for name, tensor in state.items() if name not in tuned}
    numbers = block_numbers(state, "blocks.")
    if "blocks.0.prompt" in state:
        prompts = {f"blocks.{i}.attn.prompts": take(state, f"blocks.{i}.prompt", None, None) for i in numbers}
        method: Method = VPT(tokens=len(prompts["blocks.0.attn.prompts"]))
        tuned |= prompts
    elif any(".attn.adapters." in name for name in state):
        method = _lora(state, tuned, numbers, scaling)
    else:
        method = _adapters(state, tuned, numbers, position, scaling, drop_path)
    no_leftovers(state, "adapter_plus")
    return Foreign(None, method, tuned)


def _lora(state: State, tuned: State, numbers: range, scaling: float | None) -> LoRA:
    start = "blocks.0.attn.adapters."
    locations = [location for location in _LORA if f"{start}{location}.bottleneck.1.weight" in state]
    rank = 0
    for i in numbers:
        for location in locations:
            theirs, ours = f"blocks.{i}.attn.adapters.{location}.bottleneck.", f"blocks.{i}.attn.{_LORA[location]}."
            tuned[f"{ours}A"] = take(state, f"{theirs}1.weight", None, None)
            tuned[f"{ours}B"] = take(state, f"{theirs}4.weight", None, None)
            rank = len(tuned[f"{ours}A"])
    targets = tuple("proj_output" if location == "o" else location for location in locations)
    # Every LoRA setting of the code scales by 1, dropout 0.1.
    return LoRA(rank=rank, alpha=rank * (1.0 if scaling is None else scaling), dropout=0.1, targets=targets)


def _adapters(
    state: State, tuned: State, numbers: range, position: str | None, scaling: float | None, drop_path: float
) -> AdapterPlus:
    if position is None:
        raise ValueError(f"adapter_plus files do not say where their adapters are: give position=, one of {POSITIONS}")
    one_of("position", position, POSITIONS)
    adapters = {
        "adapter": _SEATS.get(position, ""),
        **({"adapter_attn": "drop_path1."} if position == "houlsby" else {}),
    }
    start = "blocks.0.adapter."
    learned = state.get(f"{start}scaling")
    if learned is None and scaling is None:
        raise ValueError("this file holds no learned scaling: give scaling=, the constant in the run's configuration")
    fields: dict[str, Any] = {
        "bottleneck": len(take(dict(state), f"{start}bottleneck.1.weight", None, None)),
        "position": position,
        "scaling": scaling if learned is None else "learned" if learned.numel() == 1 else "channel",
        "norm": f"{start}norm_a.weight" in state,
        "bias": f"{start}bottleneck.1.bias" in state,
        "drop_path": drop_path,
    }
    layers = [layer for layer in _LAYERS if layer != "norm_a" or fields["norm"]]
    for i in numbers:
        for adapter, seat in adapters.items():
            theirs, ours = f"blocks.{i}.{adapter}.", f"blocks.{i}.{seat}adapter_plus."
            if learned is not None:
                tuned[f"{ours}scaling"] = state.pop(f"{theirs}scaling")
            for layer in layers:
                for kind in ("weight", "bias") if fields["bias"] or layer == "norm_a" else ("weight",):
                    tuned[f"{ours}{_LAYERS[layer]}.{kind}"] = state.pop(f"{theirs}{layer}.{kind}")
    return AdapterPlus(**fields)
