"""Small random states under the keys of the official code."""

import numpy as np
import torch
from torch import Tensor


def official_adaptformer(depth: int = 2, dim: int = 8, classes: int = 3) -> dict[str, Tensor]:
    """A state with the official keys, small and random."""
    g = torch.Generator().manual_seed(0)

    def layer(name: str, out: int, features: int) -> dict[str, Tensor]:
        weight = torch.randn(out, features, generator=g) * 0.1
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(out, generator=g)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.ones(dim), f"{name}.bias": torch.zeros(dim)}

    state: dict[str, Tensor] = {
        "cls_token": torch.randn(1, 1, dim, generator=g),
        "pos_embed": torch.randn(1, 5, dim, generator=g),
        "patch_embed.proj.weight": torch.randn(dim, 3, 4, 4, generator=g),
        "patch_embed.proj.bias": torch.randn(dim, generator=g),
    }
    for i in range(depth):
        b = f"blocks.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "proj"):
            state |= layer(f"{b}.attn.{part}", dim, dim)
        state |= layer(f"{b}.fc1", 4 * dim, dim) | layer(f"{b}.fc2", dim, 4 * dim)
        state |= norm(f"{b}.norm1") | norm(f"{b}.norm2")
        state |= layer(f"{b}.adaptmlp.down_proj", 2, dim) | layer(f"{b}.adaptmlp.up_proj", dim, 2)
    state |= norm("norm") | layer("head.1", classes, dim)
    return state | {"head.0.running_mean": torch.zeros(dim), "head.0.running_var": torch.ones(dim)}


def official_prompts(depth: int = 2, dim: int = 8, tokens: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "shallow_prompt": random.standard_normal((1, tokens, dim)).astype("float32"),
        "deep_prompt": random.standard_normal((depth - 1, tokens, dim)).astype("float32"),
    }
