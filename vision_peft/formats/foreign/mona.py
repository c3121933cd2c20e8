"""Checkpoints of Mona on Swin (Leiyi-Hu/mona@5deeac9): the adapters, and the head as timm names it.

Names are those of timm's Swin (``layers.i.blocks.j.my_module_1``), with or without ``backbone.`` in front.
"""

import re

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, no_leftovers, take
from vision_peft.methods.mona import Mona

_SHAPES = {  # theirs -> ours, shape; "D": channels of the stage, "h": of the bottleneck
    "norm.weight": ("norm.weight", ("D",)),
    "norm.bias": ("norm.bias", ("D",)),
    "gamma": ("gamma", ("D",)),
    "gammax": ("gammax", ("D",)),
    "project1.weight": ("down_proj.weight", ("h", "D")),
    "project1.bias": ("down_proj.bias", ("h",)),
    "project2.weight": ("up_proj.weight", ("D", "h")),
    "project2.bias": ("up_proj.bias", ("D",)),
    "adapter_conv.conv1.weight": ("depthwise.0.weight", ("h", 1, 3, 3)),
    "adapter_conv.conv1.bias": ("depthwise.0.bias", ("h",)),
    "adapter_conv.conv2.weight": ("depthwise.1.weight", ("h", 1, 5, 5)),
    "adapter_conv.conv2.bias": ("depthwise.1.bias", ("h",)),
    "adapter_conv.conv3.weight": ("depthwise.2.weight", ("h", 1, 7, 7)),
    "adapter_conv.conv3.bias": ("depthwise.2.bias", ("h",)),
    "adapter_conv.projector.weight": ("pointwise.weight", ("h", "h", 1, 1)),
    "adapter_conv.projector.bias": ("pointwise.bias", ("h",)),
}
_MODULE = re.compile(r"(layers\.[0-9]{1,6}\.blocks\.[0-9]{1,6})\.my_module_([12])\.gamma")


def read(state: State, *, dropout: float = 0.1) -> Foreign:
    """Map the official keys.

    Args:
        state: tensors of the file.
        dropout: of use for further training only.

    Raises:
        ValueError: keys that are not of this code, or none of an adapter.
    """
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    tuned = {name: state.pop(name) for name in ("head.fc.weight", "head.fc.bias") if name in state}
    found = [match for name in state if (match := _MODULE.fullmatch(name))]
    if not found:
        raise ValueError("not a Mona file: wanted layers.0.blocks.0.my_module_1.gamma, ...")
    inner = None
    for match in found:
        block, number = match.groups()
        theirs = f"{block}.my_module_{number}."
        sizes = {"D": state[f"{theirs}gamma"].numel(), "h": inner}
        for name, (ours, shape) in _SHAPES.items():
            wanted = [sizes[size] if isinstance(size, str) else size for size in shape]
            tensor = tuned[f"{block}.mona.{int(number) - 1}.{ours}"] = take(state, f"{theirs}{name}", *wanted)
            if name == "project1.weight":
                inner = sizes["h"] = len(tensor)
    no_leftovers(state, "Mona")
    return Foreign(None, Mona(width=inner or 0, dropout=dropout), tuned)
