"""BitFit, norm tuning and partial fine-tuning: what trains, how many that are, and that nothing needs merging."""

from typing import Any

import pytest
import torch
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from torch import nn

import vision_peft as vp
from vision_peft.tuning.blocks import blocks

L, D, H = 12, 768, 3072
IN_PLACE = [vp.BitFit(), vp.NormTuning(), vp.PartialFineTune()]


@pytest.mark.parametrize(
    ("method", "closed_form", "figure"),
    [
        (vp.BitFit(), L * (D + 3 * D + D + D + H + D) + D + D, 102_912),
        (vp.NormTuning(), (2 * L + 1) * 2 * D, 38_400),
        (vp.PartialFineTune(), 4 * D + (D + 1) * 3 * D + (D + 1) * D + (D + 1) * H + (H + 1) * D + 2 * D, 7_089_408),
        (vp.PartialFineTune(blocks=4), 4 * (7_089_408 - 2 * D) + 2 * D, 28_353_024),
        (vp.PartialFineTune(blocks=12), 12 * (7_089_408 - 2 * D) + 2 * D, 85_056_000),
    ],
    ids=repr,
)
def test_trained_and_stored_parameters_are_those_of_the_tables(method, closed_form, figure):
    assert closed_form == figure
    assert count_on_vit_base(method)[:2] == (figure, figure)


@pytest.mark.parametrize("family", FAMILIES)
def test_bitfit_trains_what_is_added_to_features_and_no_position_bias(family):
    model = vp.attach(tiny(family), vp.BitFit())
    trained = {name for name, _ in vp.tuned_parameters(model)}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d | nn.LayerNorm)}
    expected = {f"{name}.bias" for name, layer in layers.items() if layer.bias is not None}
    expected |= {n for n, _ in model.named_parameters() if n.endswith(("q_bias", "v_bias")) or n.startswith("head")}
    assert trained == expected
    if "beit" in family or family == "eva02_tiny":
        assert {"blocks.1.attn.q_bias", "blocks.1.attn.v_bias"} <= trained
    assert not any("relative_position" in name for name in trained)


def test_bitfit_of_a_backbone_without_biases_is_refused():
    model: Any = tiny("vit")
    for module in model.modules():
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            module.bias = None
    with pytest.raises(ValueError, match="this VisionTransformer has no biases to train"):
        vp.attach(model, vp.BitFit())


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_tuning_trains_norms_and_head_only(family):
    model = vp.attach(tiny(family), vp.NormTuning())
    trained = {name for name, _ in vp.tuned_parameters(model)}
    assert trained == {n for n, _ in model.named_parameters() if "norm" in n or n.startswith("head")}


@pytest.mark.parametrize("family", FAMILIES)
def test_partial_trains_the_last_block_the_norm_behind_it_and_the_head(family):
    model = vp.attach(tiny(family), vp.PartialFineTune(blocks=1))
    last = {id(p) for p in blocks(model)[-1].parameters()}
    for name, parameter in model.named_parameters():
        behind = name.startswith(("norm.", "fc_norm.", "head"))
        assert parameter.requires_grad == (id(parameter) in last or behind), name


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(ValueError, match="blocks=3, but this backbone has 2: use FullFineTune"):
        vp.attach(tiny("vit"), vp.PartialFineTune(blocks=3))
    with pytest.raises(ValueError, match="blocks must"):
        vp.PartialFineTune(blocks=0)


@pytest.mark.parametrize("method", IN_PLACE, ids=lambda m: m.name)
def test_merging_has_nothing_to_fold_and_keeps_what_was_trained(method):
    model = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    vp.restore_last_block(model)
    x, before = images(model), dict(model.state_dict())
    expected = model(x)
    vp.merge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(x), expected)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", IN_PLACE, ids=lambda m: m.name)
def test_beside_lora_both_are_stored_and_both_merge(method):
    model = vp.attach(vp.attach(tiny("vit"), vp.LoRA(rank=2)), method)
    alone = vp.count_parameters(vp.attach(tiny("vit"), method)).stored
    lora = vp.count_parameters(vp.attach(tiny("vit"), vp.LoRA(rank=2))).stored
    assert vp.count_parameters(model).stored == alone + lora
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("second", [vp.LoRA(rank=2), vp.BitFit()], ids=lambda m: m.name)
@pytest.mark.parametrize("method", IN_PLACE, ids=lambda m: m.name)
def test_what_a_first_stage_trained_and_froze_is_stored_with_the_second(method, second, tmp_path):
    model: Any = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    trained = {name for name, _ in vp.tuned_parameters(model)}
    model.requires_grad_(False)
    if type(second) is type(method):
        second = vp.NormTuning()
    vp.attach(model, second)
    randomise_tuned(model)
    state = vp.tuned_state_dict(model)
    assert trained <= set(state)
    in_place = [name for name in state if name in dict(tiny("vit").named_parameters()) and not name.startswith("head")]
    assert in_place == [name for name, _ in tiny("vit").named_parameters() if name in in_place]  # in their order
    x = images(model)
    expected = model.eval()(x)
    vp.save_adapter(model, tmp_path)
    torch.testing.assert_close(vp.load_adapter(tiny("vit"), tmp_path).eval()(x), expected, rtol=1e-6, atol=1e-6)
    frozen = {**tiny("vit").state_dict(), **model.head.state_dict(prefix="head.")}
    plain: Any = tiny("vit")
    plain.load_state_dict(frozen)
    with vp.disabled(model, original=tiny("vit").state_dict()):
        torch.testing.assert_close(model(x), plain(x))
