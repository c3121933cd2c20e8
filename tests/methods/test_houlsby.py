"""Houlsby adapters: the equation written out, places, initialisation, counts."""

from typing import Any

import pytest
import timm
import torch
from support.block_inputs import recorded_calls
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.layers import DropPath
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import blocks

L, D = 12, 768


def adapted(y: Tensor, seat: Any) -> Tensor:
    """y + W_up GELU(W_down y + b_down) + b_up with GELU by its definition."""
    a = seat.houlsby
    z = y @ a.down_proj.weight.T + a.down_proj.bias
    z = z * 0.5 * (1 + torch.erf(z / 2**0.5))
    return y + z @ a.up_proj.weight.T + a.up_proj.bias


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", [("attn", "mlp"), ("mlp",), ("attn",)], ids="+".join)
def test_every_sub_layer_output_passes_the_equation_before_the_residual_sum(family, positions):
    model = vp.attach(tiny(family), vp.Houlsby(bottleneck=4, positions=positions))
    randomise_tuned(model)
    seats = [seat for block in blocks(model) for seat in (block.drop_path1, block.drop_path2)]
    with torch.no_grad(), recorded_calls(seats) as calls:
        model(images(model))
    assert len(calls) == len(seats)
    for i, (seat, (y,), _, out) in enumerate(calls):
        here = ("attn", "mlp")[i % 2] in positions
        expected = adapted(y, seat) if here else y
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        assert not here or (out - y).abs().max() > 0.01, "the adapter does nothing: this test tests nothing"


def test_drop_path_drops_the_adapter_with_its_sub_layer():
    model = tiny("vit")
    for block in blocks(model):
        block.drop_path2 = DropPath(0.5)
    vp.attach(model, vp.Houlsby(bottleneck=4))
    seat: Any = blocks(model)[0].drop_path2.train()
    torch.manual_seed(0)
    y = seat(torch.ones(64, 3, 32))
    dropped = y.flatten(1).abs().amax(1) == 0
    assert 0 < dropped.sum() < 64


@pytest.mark.parametrize(("method", "sigma"), [(vp.Houlsby(), 1e-3), (vp.Houlsby.as_in_paper(), 1e-2)], ids=repr)
def test_weights_start_from_a_normal_cut_at_two_sigma_and_biases_from_zero(method, sigma):
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    vp.attach(model, method)
    cut = 0.8796  # standard deviation of a unit normal cut at ±2
    for layer in ("down_proj", "up_proj"):
        weight = model.get_parameter(f"blocks.0.drop_path1.houlsby.{layer}.weight")
        assert weight.abs().max() <= 2 * sigma
        assert abs(weight.std().item() / (cut * sigma) - 1) < 0.02  # 49,152 draws: the standard error is 0.3 %
        assert model.get_parameter(f"blocks.0.drop_path1.houlsby.{layer}.bias").abs().max() == 0


def test_both_projections_learn_from_the_first_step():
    model = vp.attach(tiny("vit"), vp.Houlsby())
    model(images(model)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in vp.tuned_parameters(model))


@pytest.mark.parametrize(
    ("method", "closed_form", "figure"),
    [
        (vp.Houlsby(bottleneck=8), 2 * L * (2 * D * 8 + 8 + D), 313_536),
        (vp.Houlsby(bottleneck=64), 2 * L * (2 * D * 64 + 64 + D), 2_379_264),
        (vp.Houlsby(bottleneck=64, train_norms=True), 2 * L * (2 * D * 64 + 64 + D) + 25 * 2 * D, 2_417_664),
        (vp.Houlsby(bottleneck=64, positions=("mlp",)), L * (2 * D * 64 + 64 + D), 1_189_632),
    ],
    ids=repr,
)
def test_trained_and_stored_parameters_are_those_of_the_tables(method, closed_form, figure):
    assert closed_form == figure
    assert count_on_vit_base(method)[:2] == (figure, figure)


def test_presets_train_the_norms_and_differ_in_sigma():
    assert vp.Houlsby.as_published(bottleneck=8) == vp.Houlsby(bottleneck=8, train_norms=True, sigma=1e-3)
    assert vp.Houlsby.as_in_paper() == vp.Houlsby(train_norms=True, sigma=1e-2)
    assert vp.Houlsby.as_published(train_norms=False) == vp.Houlsby()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bottleneck": 0}, "bottleneck must"),
        ({"sigma": 0.0}, "sigma must"),
        ({"positions": ()}, "positions must be distinct and at least one of"),
        ({"positions": ("mlp", "mlp")}, "positions must be distinct"),
        ({"positions": ("ffn",)}, "positions must be one of 'attn', 'mlp'; got 'ffn'"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.Houlsby(**fields)
