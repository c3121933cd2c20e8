"""Names of OpenAI's CLIP image tower, which the official ST-Adapter and AIM files have, under those of timm."""

from functools import partial
from typing import Any

from timm.layers import LayerNorm
from timm.layers.activations import QuickGELU

from vision_peft.formats.foreign.tensors import State, block_numbers, take

BLOCKS = "transformer.resblocks."
_OUTSIDE = {"conv1": "patch_embed.proj", "ln_pre": "norm_pre", "ln_post": "norm"}
_IN_BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


ARGUMENTS: dict[str, Any] = {  # of timm's VisionTransformer, which the tensors do not tell
    "norm_layer": partial(LayerNorm, eps=1e-5),
    "act_layer": QuickGELU,
}


def take_image_tower(state: State) -> State:
    """Pop the image tower out of ``state`` and return it under timm's names; empty where the file holds none.

    Raises:
        KeyError: part of the tower is missing.
    """
    if "conv1.weight" not in state:
        return {}
    found = {
        "cls_token": take(state, "class_embedding", None).reshape(1, 1, -1),
        "pos_embed": take(state, "positional_embedding", None, None).unsqueeze(0),
        "patch_embed.proj.weight": state.pop("conv1.weight"),
    }
    layers = {theirs: ours for theirs, ours in _OUTSIDE.items() if theirs != "conv1"}
    for i in block_numbers(state, BLOCKS):
        theirs, ours = f"{BLOCKS}{i}.", f"blocks.{i}."
        layers |= {theirs + name: ours + timm for name, timm in _IN_BLOCK.items()}
        for kind in ("weight", "bias"):
            found[f"{ours}attn.qkv.{kind}"] = state.pop(f"{theirs}attn.in_proj_{kind}")
    for theirs, ours in layers.items():
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = state.pop(f"{theirs}.{kind}")
    return found
