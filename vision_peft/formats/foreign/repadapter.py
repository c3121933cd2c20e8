"""Checkpoints of luogen1996/RepAdapter@360992f: the adapters and the head, for a timm backbone of your own."""

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, split_head, take
from vision_peft.methods.repadapter import RepAdapter

_NORMS = {"attn": "norm1", "mlp": "norm2"}


def read(state: State, *, scale: float, dropout: float = 0.1) -> Foreign:
    """Map the official keys; ``repblock`` and ``repattn`` are told apart by them.

    Args:
        state: tensors of the file.
        scale: s of the task; the file does not tell, and the official ``test.py`` folds with 1 unless told.
        dropout: of use for further training only.

    Raises:
        ValueError: keys that are not of this code.
    """
    state = dict(state)
    tuned, _ = split_head(state)
    state = {name: tensor for name, tensor in state.items() if name not in tuned}
    numbers = block_numbers(state, "blocks.")
    sites = [site for site in _NORMS if f"blocks.0.adapter_{site}.conv_A.weight" in state]
    bottleneck = groups = 0
    for i in numbers:
        for site in sites:
            theirs, ours = f"blocks.{i}.adapter_{site}.conv_", f"blocks.{i}.{_NORMS[site]}.repadapter."
            A = take(state, f"{theirs}A.weight", None, None, 1).squeeze(-1)
            B = take(state, f"{theirs}B.weight", A.shape[1], None, 1).squeeze(-1)
            bottleneck, groups = len(A), len(A) // B.shape[1]
            if groups * B.shape[1] != bottleneck or len(B) % max(groups, 1):
                raise ValueError(f"{theirs}B.weight {tuple(B.shape)} has no groups for {bottleneck} hidden channels")
            tuned[f"{ours}down_proj.weight"] = A
            tuned[f"{ours}down_proj.bias"] = state.pop(f"{theirs}A.bias")
            tuned[f"{ours}up"] = B.unflatten(0, (groups, -1))
            tuned[f"{ours}up_bias"] = state.pop(f"{theirs}B.bias")
    no_leftovers(state, "RepAdapter")
    method = RepAdapter(bottleneck=bottleneck, groups=groups, scale=scale, sites=tuple(sites), dropout=dropout)
    return Foreign(None, method, tuned)
