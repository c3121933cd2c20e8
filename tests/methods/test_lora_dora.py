"""LoRA in DoRA's form: directions by LoRA, lengths of the rows on their own."""

from typing import Any

import pytest
import torch
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.lora_weights import SCALE, assert_merges_exactly, decomposed
from support.vit_base import count_on_vit_base
from torch import nn

import vision_peft as vp
from vision_peft.tuning.low_rank import LowRank
from vision_peft.tuning.low_rank_starts import draw_start


@pytest.mark.parametrize("bias", [True, False])
def test_dora_equals_its_equation_in_outputs_and_gradients(bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4, bias=bias), torch.randn(5, 6)
    update: Any = LowRank(linear.weight, draw_start("kaiming", linear.weight, 2, 1.5), 1.5, dora=True)
    for parameter in update.parameters():
        nn.init.normal_(parameter)
    A, B, m = (t.detach().clone().requires_grad_() for t in (update.A, update.B, update.magnitude))
    y = update.add(linear(x), update(x), linear.weight, linear.bias)
    expected = nn.functional.linear(x, decomposed(linear.weight.detach(), A, B, m, 3 / 2), linear.bias)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, reference in ((update.A, A), (update.B, B), (update.magnitude, m)):
        torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_dora_starts_from_the_lengths_of_the_rows_and_merges_to_its_weight(family):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, dora=True, targets=("q", "k", "v", "proj")))
    plain = tiny(family)
    state = vp.tuned_state_dict(model)
    for name, magnitude in state.items():
        if name.endswith("attn.proj.lora.magnitude"):
            weight = plain.get_parameter(name.replace("lora.magnitude", "weight"))
            torch.testing.assert_close(magnitude, weight.square().sum(1).sqrt())
    randomise_tuned(model)
    x, state = images(model), {n: t.clone() for n, t in model.state_dict().items()}
    expected = model(x)
    vp.merge(model)
    for name in {n.split(".lora.")[0] for n in state if "attn.proj.lora" in n}:
        A, B, m = (state[f"{name}.lora.{part}"] for part in ("A", "B", "magnitude"))
        wanted = decomposed(state[f"{name}.weight"], A, B, m, SCALE)
        torch.testing.assert_close(model.get_parameter(f"{name}.weight"), wanted)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=2e-5)


def test_dora_adds_one_number_per_output_channel():
    counts = count_on_vit_base(vp.LoRA(rank=8, dora=True, targets=("qkv",)))
    assert counts.trained == 294_912 + 12 * 3 * 768


def test_a_row_of_zeros_stays_finite_under_dora():
    linear = nn.Linear(6, 4)
    nn.init.zeros_(linear.weight[1].detach())
    update = LowRank(linear.weight, draw_start("kaiming", linear.weight, 2, 4.0), 4.0, dora=True)
    y = update.add(torch.randn(5, 4), update(torch.randn(5, 6)), linear.weight, linear.bias)
    assert y.isfinite().all()


@pytest.mark.parametrize("first", [vp.LoRA(rank=2), vp.SSF()], ids=lambda m: m.name)
def test_dora_on_a_layer_that_is_not_plain_is_refused_and_below_another_method_it_merges(first):
    dora = vp.LoRA(rank=2, dora=True, targets=("q", "v"))
    with pytest.raises(ValueError, match=r"this one carries .*: attach LoRA\(dora=True\) first"):
        vp.attach(vp.attach(tiny("vit"), first), dora)
    if isinstance(first, vp.LoRA):
        return
    model = vp.attach(vp.attach(tiny("vit"), dora), first)
    randomise_tuned(model)
    assert_merges_exactly(model)
