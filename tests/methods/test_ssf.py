"""SSF against hooks that scale and shift a plain model, and folded into a plain timm model."""

import re
from typing import Any

import pytest
import timm
import torch
from support.block_inputs import snapshot
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.layers import HybridEmbed, RmsNorm
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.blocks import blocks

L, D = 12, 768
SITE = re.compile(
    r".*blocks\.\d+\.(norm1|norm2|norm3|attn\.(qkv|q_proj|k_proj|v_proj|proj)|mlp\.(fc1|fc1_g|fc1_x|fc2))"
    r"|patch_embed\.(proj|norm)|.*\.downsample\.norm"
)
POOLED = {"vit_avg", "tubelet", "eva02_tiny", "eva02_base", "rope_gqa", "beit", "beit_shared_bias"}  # before the norm
MERGEABLE = ["vit", "vit_avg", "deit3", "deit_distilled", "dinov2_reg4", "siglip", "swin", "tubelet"]


def site_names(model: nn.Module, family: str, last: str = "final_norm") -> set[str]:
    """Where a pair belongs, by the names of timm's layers."""
    layers = {name for name, layer in model.named_modules() if not isinstance(layer, nn.Identity)}
    before_pooling = family in POOLED and last == "before_pooling"
    return {*filter(SITE.fullmatch, layers), "norm" if before_pooling else FAMILIES[family].final_norm}


def hooked(family: str, model: nn.Module, last: str = "final_norm") -> Any:
    """A plain model whose layers' outputs are scaled and shifted from outside by the pairs of ``model``."""
    plain, state = tiny(family), model.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if "ssf_" not in name})
    for block in blocks(plain):
        if getattr(block.attn, "q_bias", None) is not None:
            block.attn.qkv_bias_separate = True  # else timm does not call the layer
    for name in site_names(plain, family, last):
        scale, shift = state[f"{name}.ssf_scale"], state[f"{name}.ssf_shift"]

        def hook(layer: nn.Module, _: Any, y: Tensor, scale: Tensor = scale, shift: Tensor = shift) -> Tensor:
            shape = (-1, *[1] * (y.ndim - 2)) if isinstance(layer, nn.Conv2d | nn.Conv3d) else (-1,)
            return y * scale.view(shape) + shift.view(shape)

        plain.get_submodule(name).register_forward_hook(hook)
    return plain


@pytest.mark.parametrize("last", ["final_norm", "before_pooling"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_scaled_and_shifted_and_no_other(family, last):
    model = vp.attach(tiny(family), vp.SSF(last=last))
    assert {name for name, _ in graft.grafts(model)} == site_names(tiny(family), family, last)
    randomise_tuned(model)
    x = images(model)
    torch.testing.assert_close(model(x), hooked(family, model, last)(x), rtol=1e-5, atol=1e-5)


def test_behind_average_pooling_the_last_pair_scales_and_shifts_the_normed_mean():
    plain, model = tiny("vit_avg"), vp.attach(tiny("vit_avg"), vp.SSF())
    with torch.no_grad():
        for name, parameter in vp.tuned_parameters(model):
            if not name.startswith(("head", "fc_norm")):
                parameter.fill_(float(name.endswith("ssf_scale")))  # all others leave their layer as it is
    x, state = images(model), model.state_dict()
    mean = plain.forward_features(x)[:, 1:].mean(1)
    normed = nn.functional.layer_norm(mean, (32,), plain.fc_norm.weight, plain.fc_norm.bias, plain.fc_norm.eps)
    expected = plain.head(normed * state["fc_norm.ssf_scale"] + state["fc_norm.ssf_shift"])
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_fresh_norm_after_pooling_takes_the_pair_and_a_new_head_follows_it():
    model: Any = tiny("vit_avg")
    with torch.no_grad():
        model.fc_norm.weight.fill_(1)
        model.fc_norm.bias.zero_()
    vp.replace_head(vp.attach(model, vp.SSF()), "batchnorm_linear", 3)
    randomise_tuned(model)
    pair = model.fc_norm.ssf_scale.clone(), model.fc_norm.ssf_shift.clone()
    x = images(model)
    expected = model.eval()(x)
    vp.merge(model)
    torch.testing.assert_close((model.fc_norm.weight, model.fc_norm.bias), pair)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norms", ["all", "final"])
def test_a_final_norm_that_trains_itself_merges_with_its_pair(norms):
    model = vp.attach(vp.attach(tiny("vit_avg"), vp.NormTuning(norms=norms)), vp.SSF())
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_a_final_norm_of_either_seat_without_parameters_takes_a_pair_and_cannot_fold_it(global_pool):
    arguments: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32, "num_classes": 3}
    model: Any = timm.create_model("vit_tiny_patch16_224", **arguments, global_pool=global_pool).eval()
    seat = "fc_norm" if global_pool == "avg" else "norm"
    setattr(model, seat, nn.LayerNorm(32, elementwise_affine=False))
    vp.attach(model, vp.SSF())
    assert f"{seat}.ssf_scale" in vp.tuned_state_dict(model)
    with pytest.raises(ValueError, match=rf"a shift behind a LayerNorm without a bias has nowhere to go \({seat}\)"):
        vp.merge(model)


def test_the_published_setting_differs_after_average_pooling_only():
    assert vp.SSF.as_published() == vp.SSF(last="before_pooling")
    for family in FAMILIES:
        ours, theirs = (set(vp.tuned_state_dict(vp.attach(tiny(family), m))) for m in (vp.SSF(), vp.SSF.as_published()))
        moved = {f"{seat}.ssf_{kind}" for seat in ("norm", "fc_norm") for kind in ("scale", "shift")}
        assert ours ^ theirs == (moved if family in POOLED else set())


def test_another_place_of_the_last_pair_is_refused():
    with pytest.raises(ValueError, match="last must be one of 'final_norm', 'before_pooling'; got 'norm'"):
        vp.SSF(last="norm")


def test_pairs_start_near_one_and_zero_as_in_the_official_code():
    torch.manual_seed(0)
    model = vp.attach(timm.create_model("vit_base_patch16_224", depth=4, num_classes=0), vp.SSF())
    state = vp.tuned_state_dict(model)
    for kind, mean in (("ssf_scale", 1.0), ("ssf_shift", 0.0)):
        values = torch.cat([tensor for name, tensor in state.items() if name.endswith(kind)])
        assert abs(values.mean().item() - mean) < 5e-4  # 35,328 draws: the standard error is 1e-4
        assert abs(values.std().item() - 0.02) < 5e-4


def test_trained_and_stored_parameters_are_those_of_the_tables():
    per_block = 2 * (D + 3 * D + D + D + 4 * D + D)
    assert L * per_block + 2 * 2 * D == 22 * D * L + 4 * D == 205_824
    assert count_on_vit_base(vp.SSF())[:2] == (205_824, 205_824)


@pytest.mark.parametrize("family", MERGEABLE)
def test_merge_writes_scale_and_shift_into_weight_and_bias(family):
    model = vp.attach(tiny(family), vp.SSF())
    randomise_tuned(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = site_names(tiny(family), family)
    vp.merge(model)
    for name in names:
        scale, shift = state[f"{name}.ssf_scale"], state[f"{name}.ssf_shift"]
        weight, bias = model.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.bias")
        shaped = scale.view(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(weight, shaped * state[f"{name}.weight"])
        torch.testing.assert_close(bias, scale * state[f"{name}.bias"] + shift)


@pytest.mark.parametrize("family", ["beit", "beit_shared_bias"])
def test_merge_on_beit_needs_no_bias_of_the_keys(family):
    model: Any = vp.attach(tiny(family), vp.SSF())
    randomise_tuned(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)
    for i, block in enumerate(model.blocks):
        before = {name.removeprefix(f"blocks.{i}.attn."): tensor for name, tensor in state.items()}
        q, k, v = before["qkv.ssf_shift"].chunk(3)
        assert k.abs().max() > 0.01
        torch.testing.assert_close(block.attn.qkv.weight, before["qkv.ssf_scale"][:, None] * before["qkv.weight"])
        torch.testing.assert_close(block.attn.q_bias, before["q_bias"] + q)
        torch.testing.assert_close(block.attn.v_bias, before["v_bias"] + v)


@pytest.mark.parametrize("family", ["eva02_tiny", "eva02_base"])
def test_keys_that_rotate_take_a_shift_only_in_a_bias(family):
    model = vp.attach(tiny(family), vp.SSF())
    with pytest.raises(ValueError, match="a shift at a Linear without a bias has nowhere to go"):
        vp.merge(model)


def test_a_merge_that_cannot_be_whole_says_why_and_changes_nothing():
    model = vp.attach(vp.attach(tiny("vit_avg"), vp.LoRA(rank=2)), vp.SSF.as_published())
    randomise_tuned(model)
    x, before = images(model), snapshot(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"cannot merge LoRA, SSF: .* behind an Identity .* \(norm\); keep"):
        vp.merge(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("order", ["ssf first", "lora first"])
def test_lora_beside_it_merges_in_either_order(order):
    methods = [vp.SSF(), vp.LoRA(rank=2, targets=("q", "v", "fc1"))]
    model = tiny("vit")
    for method in methods if order == "ssf first" else methods[::-1]:
        vp.attach(model, method)
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


def test_a_norm_without_a_bias_is_scaled_but_cannot_take_the_shift():
    arguments: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **arguments, norm_layer=RmsNorm).eval()
    vp.attach(model, vp.SSF())
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
    with pytest.raises(ValueError, match="a shift behind a RmsNorm without a bias has nowhere to go"):
        vp.merge(model)


def test_a_patch_embedding_that_is_a_network_of_its_own_is_refused():
    model: Any = tiny("vit")
    stem: Any = nn.Conv2d(3, 8, 4, stride=4)
    stem.num_features = 8
    model.patch_embed = HybridEmbed(stem, img_size=32, feature_size=(8, 8), embed_dim=8, proj=False)
    with pytest.raises(ValueError, match="patches of HybridEmbed: its last layer is unknown"):
        vp.attach(model, vp.SSF())
    assert not list(graft.grafts(model))
