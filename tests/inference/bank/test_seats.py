"""Seats: modules through which whole images go, on families that bypass layers, share tables or cut windows."""

import pytest
from support.families import BYPASSED, FAMILIES, tiny

from vision_peft.inference.bank.seats import find_seats, nearest_seat
from vision_peft.tuning.blocks import blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_attention_and_norms_are_seats_and_a_layer_that_timm_bypasses_is_not(family):
    model = tiny(family)
    seats, names = find_seats(model), {module: name for name, module in model.named_modules()}
    for block in blocks(model):
        for module in (block, block.attn, block.norm1, block.mlp, block.drop_path1, block.attn.proj):
            assert names[module] in seats
        if block.attn.qkv is not None:
            assert (names[block.attn.qkv] in seats) == (family not in BYPASSED)
    assert "patch_embed" in seats
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_what_makes_a_table_of_positions_is_no_seat_and_is_cut_around_it():
    seats = find_seats(tiny("swin_v2"))
    assert nearest_seat("layers.0.blocks.0.attn.cpb_mlp.0", seats) == "layers.0.blocks.0.attn"
    assert nearest_seat("layers.0.blocks.0.mlp.fc1", seats) == "layers.0.blocks.0.mlp.fc1"
    assert nearest_seat("rel_pos_bias", find_seats(tiny("beit_shared_bias"))) == ""
