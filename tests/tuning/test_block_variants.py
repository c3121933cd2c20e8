"""Blocks with one drop-path for both halves, with several branches a half, and a position bias with a class token."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny

import vision_peft as vp
from vision_peft.tuning.blocks import blocks, branches


def test_both_halves_of_a_block_with_one_drop_path_get_an_adapter_of_their_own():
    model: Any = vp.attach(tiny("cait"), vp.Houlsby(bottleneck=4))
    randomise_tuned(model)
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model.eval()(images(model))
    for block, (x,), _, y in calls:
        for branch, gamma in ((branches(block, "attn")[0], block.gamma_1), (branches(block, "mlp")[0], block.gamma_2)):
            adapter = branch.drop_path.houlsby
            out = gamma * branch.layer(branch.norm(x))
            x = x + out + adapter.up_proj(F.gelu(adapter.down_proj(out)))
        torch.testing.assert_close(y, x)
    adapters = {name for name, _ in vp.tuned_parameters(model) if name.endswith("down_proj.weight")}
    assert len(adapters) == 4


def test_every_branch_of_a_half_gets_an_adapter_and_all_its_layers_an_update():
    model: Any = vp.attach(tiny("vit_parallel"), vp.Houlsby(bottleneck=4))
    assert sum(name.endswith("down_proj.weight") for name, _ in vp.tuned_parameters(model)) == 2 * 4
    model = vp.attach(tiny("vit_parallel"), vp.LoRA(rank=2, targets=("q", "fc1")))
    assert sum(name.endswith(".A") for name, _ in vp.tuned_parameters(model)) == 2 * 4


def test_a_bias_of_the_class_token_stays_its_own_under_prompts():
    model: Any = timm.create_model(
        "vit_relpos_base_patch16_cls_224",
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=1,
        num_heads=2,
        rel_pos_type="bias",
    )
    rel_pos = model.blocks[0].attn.rel_pos
    with torch.no_grad():
        rel_pos.relative_position_bias_table.normal_()
    before = rel_pos.get_bias()
    vp.attach(model, vp.VPT(tokens=3, deep=False))
    after = rel_pos.get_bias()
    assert torch.equal(after[:, :, 0, [0, *range(4, 20)]], before[:, :, 0])
    assert torch.equal(after[:, :, 4:, [0, *range(4, 20)]], before[:, :, 1:])
    assert not after[:, :, 1:4].any()
    assert not after[:, :, :, 1:4].any()
