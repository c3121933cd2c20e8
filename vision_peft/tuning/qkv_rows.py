"""The rows of a fused ``qkv`` layer: all queries, all keys, all values; or those of one head, those of the next."""

import torch
from torch import Tensor


def split_rows(t: Tensor, heads: int | None, dim: int = 0) -> list[Tensor]:
    """Cut the axis ``dim`` of ``t`` (3 D) into those of queries, keys and values (D each).

    Args:
        t: weight, bias or output of a fused layer.
        heads: number of heads whose q, k and v stand side by side; None where all of q come first. Then the parts are
            views of ``t``, else copies.
        dim: axis.
    """
    dim %= t.ndim
    if heads is None:
        return list(t.chunk(3, dim))
    return [part.flatten(dim, dim + 1) for part in t.unflatten(dim, (heads, 3, -1)).unbind(dim + 1)]


def join_rows(parts: list[Tensor], heads: int | None, dim: int = 0) -> Tensor:
    """Put the parts of ``split_rows`` together again."""
    dim %= parts[0].ndim
    if heads is None:
        return torch.cat(parts, dim)
    return torch.stack([part.unflatten(dim, (heads, -1)) for part in parts], dim + 1).flatten(dim, dim + 2)
