"""Rows and columns of a relative position bias for tokens that join the sequence it was made for."""

import torch
from torch import Tensor

from vision_peft.tuning.token_positions import TokenPositions


def insert_zeros(bias: Tensor, at: int, tokens: int) -> Tensor:
    """Give ``bias`` (... N N) rows and columns of zeros for ``tokens`` tokens that stand at index ``at``."""
    for dim in (-2, -1):
        shape = list(bias.shape)
        shape[dim] = tokens
        first, rest = bias.tensor_split([at], dim)
        bias = torch.cat([first, bias.new_zeros(shape), rest], dim)
    return bias


def insert_placed(bias: Tensor, placed: TokenPositions, patches: int) -> Tensor:
    """Give ``bias`` (... N N) rows and columns for tokens right before its last ``patches``: those of their patches."""
    rows = bias.shape[-1]
    every = torch.arange(rows, device=bias.device)
    ahead, grid = every.split([rows - patches, patches])
    index = torch.cat([ahead, grid[placed.index(patches, bias.device)], grid])
    return bias.index_select(-2, index).index_select(-1, index)
