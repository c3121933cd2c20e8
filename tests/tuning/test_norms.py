"""Which modules count as norms of the backbone, family by family."""

import pytest
import timm
from support.families import WINDOWED, WITH_BLOCKS, tiny
from timm.layers import RmsNorm
from torch import nn

import vision_peft as vp
from vision_peft.tuning.norms import final_norm, final_norms, norm_layers

IN_BLOCKS = 4  # norm1 and norm2 of two blocks


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_every_norm_with_parameters_is_found_and_the_head_is_none(family):
    model = vp.replace_head(tiny(family), "batchnorm_linear", 3)
    found = norm_layers(model)
    named = [m for m in model.modules() if "Norm" in type(m).__name__ and list(m.parameters(recurse=False))]
    assert found == named
    expected = IN_BLOCKS + 1 + WITH_BLOCKS[family].extra_norms
    if family in WINDOWED:  # twice the blocks, the patch embedding's and one patch merging's norm
        expected += IN_BLOCKS + 2
    assert len(found) == expected


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_one_norm_lies_behind_the_last_block(family):
    model = tiny(family)
    (norm,) = final_norms(model)
    assert norm is model.get_submodule(WITH_BLOCKS[family].final_norm) is final_norm(model)


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_a_model_without_a_norm_behind_the_last_block_has_an_identity_there(global_pool):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, global_pool=global_pool, final_norm=False)
    assert final_norms(model) == []
    assert final_norm(model) is model.norm


def test_vit_base_has_25_norms():
    model = timm.create_model("vit_base_patch16_224", num_classes=0)
    assert len(norm_layers(model)) == 25
    assert sum(p.numel() for norm in norm_layers(model) for p in norm.parameters()) == 25 * 2 * 768 == 38_400


def test_root_mean_square_norms_count_and_norms_without_parameters_do_not():
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=2, norm_layer=RmsNorm)
    assert [type(norm) for norm in norm_layers(model)] == [RmsNorm] * 3
    model.set_submodule("norm", nn.LayerNorm(32, elementwise_affine=False))
    assert len(norm_layers(model)) == 2
    assert final_norms(model) == []
