"""Checkpoints of JieShibo/PETL-ViT@026e4f1 convpass: the bypasses and the head, for a timm backbone of your own."""

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, split_head, take
from vision_peft.methods.convpass import Convpass

_LAYERS = {"adapter_down": "down_proj", "adapter_conv": "conv", "adapter_up": "up_proj"}


def read(state: State, *, scale: float, dropout: float = 0.1, init: str = "xavier") -> Foreign:
    """Map the official keys.

    Args:
        state: tensors of the file.
        scale: s of the task (``scale`` in its yaml); the file does not tell.
        dropout: of use for further training only.
        init: of the convolution; of no use for trained tensors.

    Raises:
        ValueError: keys that are not of this code.
    """
    state = dict(state)
    tuned, _ = split_head(state)
    state = {name: tensor for name, tensor in state.items() if name not in tuned}
    numbers = block_numbers(state, "blocks.")
    sites = [site for site in ("attn", "mlp") if f"blocks.0.adapter_{site}.adapter_down.weight" in state]
    bottleneck = 0
    for i in numbers:
        for site in sites:
            for theirs, ours in _LAYERS.items():
                tensors = f"blocks.{i}.adapter_{site}.{theirs}.", f"blocks.{i}.convpass.{site}.{ours}."
                dims = (None,) * (4 if ours == "conv" else 2)
                tuned[f"{tensors[1]}weight"] = take(state, f"{tensors[0]}weight", *dims)
                tuned[f"{tensors[1]}bias"] = take(state, f"{tensors[0]}bias", None)
            bottleneck = len(tuned[f"blocks.{i}.convpass.{site}.down_proj.weight"])
    no_leftovers(state, "Convpass")
    method = Convpass(bottleneck=bottleneck, scale=scale, sites=tuple(sites), dropout=dropout, init=init)
    return Foreign(None, method, tuned)
