"""Tiny timm models and random weights for them."""

from typing import Any

import timm
import torch
from torch import Tensor

NAME = "vit_tiny_patch16_224"
TINY: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2}  # arguments that make NAME tiny


def random_state(name: str = NAME, seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
    """State dict of a timm model in which no tensor has its initial value (integer buffers excepted)."""
    torch.manual_seed(seed)
    state = timm.create_model(name, **arguments).state_dict()
    return {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in state.items()}


def assert_holds(model: torch.nn.Module, state: dict[str, Tensor], but: tuple[str, ...] = ()) -> None:
    """Every tensor of ``state`` is in ``model`` bit for bit, except the names that start with one of ``but``."""
    found = model.state_dict()
    different = [key for key in state if not key.startswith(but or "-") and not torch.equal(found[key], state[key])]
    assert not different
