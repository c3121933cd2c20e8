"""Side blocks that see as far as the block they stand beside."""

from typing import Any

import pytest
import torch
from support.families import tiny
from torch import Tensor, nn

from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of_block


def sight(block: nn.Module, x: Tensor, row: int, column: int) -> Tensor:
    """Which tokens of the map ``x`` (1 H W D) reach the output at one place."""
    x = x.clone().requires_grad_()
    block(x)[0, row, column, 0].backward()  # not the sum of a token: behind a norm that could be constant
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 1e-30  # a mask of -100 leaves 4e-44


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("place", [(0, 0), (6, 6), (3, 5)])
def test_beside_swin_a_side_block_sees_the_window_of_its_neighbour(number, place):
    model: Any = tiny("swin")
    block = blocks(model)[number]
    size, width = block.input_resolution[0], block.norm1.normalized_shape[0]
    torch.manual_seed(0)
    theirs = sight(block, torch.randn(1, size, size, width), *place)
    ours = sight(family_of_block(block).side_block(block, 4).eval(), torch.randn(1, size, size, 4), *place)
    assert theirs.sum() == (9 if (number, place) == (1, (0, 0)) else 49)  # a window; in the corner a shift cuts it
    assert torch.equal(ours, theirs)


def test_side_blocks_of_flat_families_have_no_positions_and_full_sight():
    block, *_ = blocks(tiny("dinov3"))
    block = family_of_block(block).side_block(block, 4).eval()
    x = torch.randn(1, 10, 4)
    torch.testing.assert_close(block(x.flip(1)), block(x).flip(1))
    assert sum(p.numel() for p in block.parameters()) == 12 * 4 * 4 + 13 * 4


def test_a_side_merging_is_one_linear_map_of_four_neighbours():
    merging: Any = family_of_block(blocks(tiny("swin"))[0]).side_merging(3, 5)
    assert {name: tuple(p.shape) for name, p in merging.named_parameters()} == {"reduction.weight": (5, 12)}
    x = torch.randn(2, 4, 6, 3)
    corners = torch.cat([x[:, 2, 4], x[:, 3, 4], x[:, 2, 5], x[:, 3, 5]], dim=-1)
    torch.testing.assert_close(merging(x)[:, 1, 2], corners @ merging.reduction.weight.T)
    assert merging(torch.randn(1, 5, 5, 3)).shape == (1, 3, 3, 5)
