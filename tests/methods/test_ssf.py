"""SSF against hooks that scale and shift a plain model, and folded into a plain timm model."""

import re
from typing import Any

import pytest
import timm
import torch
from families import FAMILIES, images, randomise_tuned, tiny
from timm.layers import HybridEmbed, RmsNorm
from torch import Tensor, nn
from tuning.block_inputs import snapshot

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.timm_blocks import blocks

L, D = 12, 768
SITE = re.compile(
    r".*blocks\.\d+\.(norm1|norm2|attn\.(qkv|q_proj|k_proj|v_proj|proj)|mlp\.(fc1|fc1_g|fc1_x|fc2))"
    r"|patch_embed\.proj|norm"
)
SWIN_TOO = {"patch_embed.norm", "layers.1.downsample.norm"}
MERGEABLE = ["vit", "deit3", "deit_distilled", "dinov2_reg4", "siglip", "swin"]


def site_names(model: nn.Module, family: str) -> set[str]:
    """Where the official code puts a pair, by the names of timm's layers."""
    names = {name for name, _ in model.named_modules() if SITE.fullmatch(name)}
    return names | (SWIN_TOO if family == "swin" else set())


def hooked(family: str, model: nn.Module) -> Any:
    """A plain model whose layers' outputs are scaled and shifted from outside by the pairs of ``model``."""
    plain, state = tiny(family), model.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if "ssf_" not in name})
    for block in blocks(plain):
        if getattr(block.attn, "q_bias", None) is not None:
            block.attn.qkv_bias_separate = True  # else timm does not call the layer
    for name in site_names(plain, family):
        scale, shift = state[f"{name}.ssf_scale"], state[f"{name}.ssf_shift"]

        def hook(layer: nn.Module, _: Any, y: Tensor, scale: Tensor = scale, shift: Tensor = shift) -> Tensor:
            shape = (-1, *[1] * (y.ndim - 2)) if isinstance(layer, nn.Conv2d | nn.Conv3d) else (-1,)
            return y * scale.view(shape) + shift.view(shape)

        plain.get_submodule(name).register_forward_hook(hook)
    return plain


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_scaled_and_shifted_and_no_other(family):
    model = vp.attach(tiny(family), vp.SSF())
    assert {name for name, _ in graft.grafts(model)} == site_names(tiny(family), family)
    randomise_tuned(model)
    x = images(model)
    torch.testing.assert_close(model(x), hooked(family, model)(x), rtol=1e-5, atol=1e-5)


def test_pairs_start_near_one_and_zero_as_in_the_official_code():
    torch.manual_seed(0)
    model = vp.attach(timm.create_model("vit_base_patch16_224", depth=4, num_classes=0), vp.SSF())
    state = vp.tuned_state_dict(model)
    for kind, mean in (("ssf_scale", 1.0), ("ssf_shift", 0.0)):
        values = torch.cat([tensor for name, tensor in state.items() if name.endswith(kind)])
        assert abs(values.mean().item() - mean) < 5e-4  # 35,328 draws: the standard error is 1e-4
        assert abs(values.std().item() - 0.02) < 5e-4


def test_trained_and_stored_parameters_are_those_of_the_tables():
    model = vp.attach(timm.create_model("vit_base_patch16_224", num_classes=0), vp.SSF())
    per_block = 2 * (D + 3 * D + D + D + 4 * D + D)
    assert L * per_block + 2 * 2 * D == 22 * D * L + 4 * D == 205_824
    assert vp.count_parameters(model)[:2] == (205_824, 205_824)


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


def test_a_merge_that_cannot_be_whole_says_why_and_changes_nothing():
    model = vp.attach(vp.attach(tiny("vit_avg"), vp.LoRA(rank=2)), vp.SSF())
    randomise_tuned(model)
    x, before = images(model), snapshot(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"cannot merge LoRA, SSF: .* before pooling, .* \(norm\); keep the adapter"):
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
    model.patch_embed = HybridEmbed(stem, img_size=32, patch_size=2, feature_size=(8, 8), embed_dim=32)
    with pytest.raises(ValueError, match="patches of a HybridEmbed: wanted one convolution"):
        vp.attach(model, vp.SSF())
    assert not list(graft.grafts(model))
