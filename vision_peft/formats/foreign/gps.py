"""Checkpoints of FightingFighting/GPS@72e0c31: a whole timm model, of which a mask says what trained.

The official code keeps its mask (0 = trained, 1 = frozen, by the names of the model) beside the model or recomputes it;
here it is given. What the mask freezes is the backbone's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vision_peft.backbones.checkpoints import read_plain
from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, split_head
from vision_peft.methods.gps import GPS
from vision_peft.printable import name_some


def read(state: State, *, mask: Any) -> Foreign:
    """Take apart what trained and what did not.

    Args:
        state: tensors of the file.
        mask: tensors by name, 0 where a weight trained, or the path of a file that holds them.

    Raises:
        ValueError: a mask of another model, or one that does not train equally many weights of every row.
    """
    masks = _read_mask(mask)
    head, kind = split_head(state)
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    missing = [name for name in masks if name not in state]
    missing += [name for name in backbone if name not in masks]
    wrong = [name for name, own in masks.items() if name in state and own.shape != state[name].shape]
    if missing or wrong:
        raise ValueError(
            f"wanted a mask of the shape of every tensor in the file; got none, or of another shape, for "
            f"{name_some(sorted({*missing, *wrong}), 5)}"
        )
    tuned, counts = dict(head), set[int]()
    for name, tensor in backbone.items():
        trained = masks[name] == 0
        if trained.all():
            tuned[name] = tensor
        elif trained.any():
            rows = trained.flatten(1) if trained.ndim > 1 else trained.unsqueeze(0)
            numbers = rows.sum(1).unique().tolist()
            if len(numbers) != 1 or trained.ndim < 2:
                raise ValueError(f"wanted a mask with 0 equally often in every row of {name}; got {numbers[:5]} times")
            counts |= set(numbers)
            index = rows.nonzero()[:, 1].view(len(rows), -1)
            layer = name.removesuffix("weight")
            tuned[f"{layer}gps.index"] = index.to(torch.int32)
            tuned[f"{layer}gps.values"] = tensor.flatten(1).gather(1, index)
    if len(counts) != 1:
        raise ValueError(f"wanted a mask that trains equally many weights of every neuron; got {sorted(counts)}")
    return Foreign(backbone, GPS(per_neuron=counts.pop()), tuned, kind)


def _read_mask(mask: Any) -> dict[str, Tensor]:
    given = mask if isinstance(mask, Mapping) else read_plain(mask)
    if not isinstance(given, Mapping) or not all(isinstance(tensor, Tensor) for tensor in given.values()):
        raise ValueError(f"mask: wanted tensors by name, or a file of them; got {type(given).__name__}")
    return {str(name).removeprefix("module."): tensor for name, tensor in given.items()}
