"""Checkpoints of JieShibo/PETL-ViT@026e4f1 FacT, both forms: factors and head, for a timm backbone of your own."""

import torch

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, split_head, take
from vision_peft.methods.fact import FacT

_FIRST = "blocks.0.attn.qkv.fact."  # where the shared factors are


def read(state: State, *, scale: float, dropout: float = 0.1) -> Foreign:
    """Map the official keys; ``FacTc`` and ``FacTp`` mark the Tucker form.

    Args:
        state: tensors of the file.
        scale: s of the task; the file does not tell.
        dropout: of use for further training only.

    Raises:
        ValueError: keys that are not of this code.
    """
    state = dict(state)
    tuned, _ = split_head(state)
    state = {name: tensor for name, tensor in state.items() if name not in tuned}
    U = take(state, "FacTu.weight", None, None)
    rank = len(U)
    tuned |= {f"{_FIRST}U": U, f"{_FIRST}V": take(state, "FacTv.weight", U.shape[1], rank)}
    form = "tk" if "FacTc" in state else "tt"
    if form == "tk":
        tuned |= {
            f"{_FIRST}cube": take(state, "FacTc", rank, rank, rank),
            f"{_FIRST}columns": take(state, "FacTp", rank, None),
        }
    else:
        for i in block_numbers(state, "blocks."):
            block = f"blocks.{i}."
            slices = [take(state, f"{block}attn.{part}_FacTs.weight", rank, rank) for part in "qkv"]
            tuned[f"{block}attn.qkv.fact_core"] = torch.stack(slices)
            tuned[f"{block}attn.proj.fact_core"] = take(state, f"{block}attn.proj_FacTs.weight", rank, rank).unsqueeze(
                0
            )
            # The code fixes the MLP ratio to 4: four tiles in a hidden layer.
            outputs = take(state, f"{block}mlp.fc1_FacTs.weight", 4 * rank, rank)
            inputs = take(state, f"{block}mlp.fc2_FacTs.weight", rank, 4 * rank)
            tuned[f"{block}mlp.fc1.fact_core"] = outputs.unflatten(0, (-1, rank))
            tuned[f"{block}mlp.fc2.fact_core"] = inputs.unflatten(1, (-1, rank)).transpose(0, 1)
    no_leftovers(state, "FacT")
    return Foreign(None, FacT(rank=rank, form=form, scale=scale, dropout=dropout), tuned)
