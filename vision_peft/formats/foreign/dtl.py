"""Checkpoints of heekhero/DTL@bf6c51e (models/vision_transformer.py): the side path and the head.

The head reads the norm of the mean patch: use a backbone with ``global_pool="avg"`` whose ``fc_norm`` has the weights
of the checkpoint's ``norm``.
"""

import re

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, no_leftovers, split_head, take
from vision_peft.methods.dtl import DTL


def read(state: State, *, added: str | tuple[int, ...] | list[int], beta: float) -> Foreign:
    """Map the official keys of a ViT.

    Args:
        state: tensors of the file.
        added: blocks behind which the side path joins; "last 6" of 12 in all scripts of the code.
        beta: of the activation; 100.0 in all scripts of the code.

    Raises:
        ValueError: keys that are not of this code, or none of a side path.
    """
    state = dict(state)
    tuned, _ = split_head(state)
    state = {name: tensor for name, tensor in state.items() if name not in tuned}
    fed = sorted(int(found[1]) for name in state if (found := re.fullmatch(r"lora_dict\.([0-9]{1,6})\.lora_A", name)))
    if not fed:
        raise ValueError("not a DTL file: wanted lora_dict.0.lora_A, lora_dict.0.lora_B, ...")
    rank, dim = 0, 0
    for i in fed:
        A = tuned[f"blocks.{i}.dtl.A"] = take(state, f"lora_dict.{i}.lora_A", rank or None, dim or None)
        rank, dim = A.shape
        tuned[f"blocks.{i}.dtl.B"] = take(state, f"lora_dict.{i}.lora_B", dim, rank)
    kernel = None
    if "lora_fusion.weight" in state:
        conv = tuned[f"blocks.{fed[0]}.dtl_output.conv.weight"] = take(state, "lora_fusion.weight", dim, 1, None, None)
        kernel = conv.shape[-1]
        if conv.shape[-2] != kernel:
            raise ValueError(f"shape of lora_fusion.weight: wanted a square kernel, got {tuple(conv.shape)}")
    no_leftovers(state, "DTL")
    added = added if isinstance(added, str) else tuple(added)
    return Foreign(None, DTL(rank=rank, kernel=kernel, beta=beta, fed=tuple(fed), added=added), tuned)
