"""Several heads on one pass of the features, each with a learning rate and weight decay of its own.

V-JEPA 2 trains its probes so (https://arxiv.org/abs/2506.09985; official: facebookresearch/vjepa2,
evals/video_classification_frozen): the backbone, which costs nearly everything, runs once for all of them. Here the
heads start as copies of one another, so that each learns what it would learn in a run of its own.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning.backbone import classifier_names


class HeadGrid(nn.Module):
    """Features to the logits of all heads, one below the other (heads·B classes)."""

    def __init__(self, head: nn.Module, settings: Sequence[Mapping[str, float]]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in settings)
        self.settings = [dict(setting) for setting in settings]

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([head(features) for head in self.heads])


def find_grid(model: nn.Module) -> HeadGrid | None:
    """Find the grid in the place of the classification layer of ``model``, if there is one."""
    return next((module for module in model.modules() if isinstance(module, HeadGrid)), None)


def spread_heads(model: Any, settings: Sequence[Mapping[str, float]]) -> None:
    """Put a copy of the head of ``model`` for each of ``settings`` (``lr``, ``weight_decay``) in its place."""
    for name in classifier_names(model):
        head = model.get_submodule(name)
        model.set_submodule(name, HeadGrid(head, settings).train(head.training))


def keep_head(model: Any, number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``spread_heads`` but for the values of head ``number``; return those of its ``tensors`` under its own names.

    Args:
        tensors: by the names that they have in the grid; others than the heads' are returned as they are.
    """
    names = classifier_names(model)
    for name in names:
        grid: Any = model.get_submodule(name)
        model.set_submodule(name, grid.heads[number])
    kept = {}
    for key, tensor in tensors.items():
        name = next((name for name in names if key.startswith(f"{name}.heads.")), None)
        if name is None:
            kept[key] = tensor
        elif key.startswith(own := f"{name}.heads.{number}."):
            kept[f"{name}.{key.removeprefix(own)}"] = tensor
    return kept


def number_of_head(name: str) -> int | None:
    """Return which head of a grid a parameter of this name in the ``state_dict`` is of, None for any other."""
    _, between, rest = name.partition(".heads.")
    number = rest.partition(".")[0]
    return int(number) if between and number.isdigit() else None
