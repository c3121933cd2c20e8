"""Fine-tuned checkpoints of OpenGVLab/InternVideo@3965eef (InternVideo2/single_modality): the whole encoder.

Its names are timm's but for ``clip_projector``, the pooling. Positions of space, time and class token, where a file has
them apart, are added up to one table.
"""

from typing import Any

import torch
from torch import Tensor

from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, no_leftovers, split_head, take

_BACKBONE = ("cls_token", "pos_embed", "patch_embed", "blocks", "attn_pool", "fc_norm")


def read(state: State, *, pool_heads: int = 16) -> Foreign:
    """Map the official keys to a fully tuned model.

    Args:
        state: tensors of the file.
        pool_heads: heads of the pooling (``attn_pool_num_heads``: 16 in all published models).

    Raises:
        ValueError: keys that are not of this code.
    """
    tuned, head = split_head(state)
    state = {name.replace("clip_projector.", "attn_pool."): t for name, t in state.items() if name not in tuned}
    if "pos_embed_spatial" in state:
        state["pos_embed"] = _join_positions(state)
    pool_dim = take(dict(state), "attn_pool.cross_attn.proj.weight", None, None).shape[0]
    backbone = {name: state.pop(name) for name in list(state) if name.split(".")[0] in _BACKBONE}
    no_leftovers(state, "InternVideo2")
    arguments: dict[str, Any] = {"pool_heads": pool_heads, "pool_dim": pool_dim}
    return Foreign(backbone, None, tuned, head, clips="internvideo2", arguments=arguments)


def _join_positions(state: State) -> Tensor:
    """Pop the tables of places (1 HW D), time steps (1 T D) and class token, and return one (1 1 + T HW D)."""
    places, steps = (take(state, f"pos_embed_{kind}", 1, None, None) for kind in ("spatial", "temporal"))
    joint = (places.unsqueeze(1) + steps.unsqueeze(2)).flatten(1, 2)
    return torch.cat([take(state, "pos_embed_cls", 1, 1, None), joint], dim=1)
