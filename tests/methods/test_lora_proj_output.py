"""LoRA on what the projection puts out: a map behind it, against the dense map."""

from typing import Any

import pytest
import timm
import torch
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.lora_weights import SCALE, assert_merges_exactly, random_lora
from torch import nn

import vision_peft as vp
from vision_peft.tuning.blocks import blocks


def mapped_projections(family: str, model: Any, targets: tuple[str, ...]) -> nn.Module:
    """A plain model whose projections hold (I + s B A) (W + s B' A') and (I + s B A) b; the primes where targeted."""
    plain = tiny(family)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if ".lora" not in n})
    with torch.no_grad():
        for tuned, reference in zip(blocks(model), blocks(plain), strict=True):
            proj, linear = tuned.attn.proj, reference.attn.proj
            map_ = torch.eye(len(linear.weight)) + SCALE * proj.lora_output.B @ proj.lora_output.A
            inner = SCALE * proj.lora.B @ proj.lora.A if "proj" in targets else 0
            linear.weight.copy_(map_ @ (linear.weight + inner))
            if linear.bias is not None:
                linear.bias.copy_(map_ @ linear.bias)
    return plain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [("proj_output",), ("proj_output", "proj")], ids="+".join)
def test_proj_output_maps_what_the_projection_puts_out_and_merges_exactly(family, targets):
    model = random_lora(family, alpha=3, targets=targets)
    x = images(model)
    expected = mapped_projections(family, model, targets)
    output = model.eval()(x)
    assert (output - tiny(family)(x)).abs().max() > 1e-3
    torch.testing.assert_close(output, expected(x), rtol=1e-5, atol=2e-5)
    vp.merge(model)
    for merged, reference in zip(blocks(model), blocks(expected), strict=True):
        torch.testing.assert_close(merged.attn.proj.weight, reference.attn.proj.weight)
        torch.testing.assert_close(merged.attn.proj.bias, reference.attn.proj.bias)
    torch.testing.assert_close(model(x), output, rtol=1e-5, atol=2e-5)


def test_proj_output_merges_exactly_on_a_projection_without_a_bias_too():
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, proj_bias=False
    )
    assert blocks(model)[0].attn.proj.bias is None
    vp.attach(model, vp.LoRA(rank=2, targets=("proj_output",)))
    randomise_tuned(model)
    assert_merges_exactly(model.eval())


def test_dropout_of_proj_output_acts_on_the_output_in_front_of_a_only():
    model: Any = random_lora("vit", dropout=0.5, targets=("proj_output",))
    proj, x = model.blocks[0].attn.proj, torch.randn(2, 4, 32)
    vp.train_mode(model)
    torch.manual_seed(0)
    y = proj(x)
    torch.manual_seed(0)
    output = x @ proj.weight.T + proj.bias
    dropped = nn.functional.dropout(output, 0.5)
    torch.testing.assert_close(y, output + dropped @ proj.lora_output.A.T @ proj.lora_output.B.T * (8 / 2))


def test_below_dora_on_proj_the_map_of_its_output_is_refused_and_above_it_merges():
    output = vp.LoRA(rank=2, targets=("proj_output",))
    dora = vp.LoRA(rank=2, targets=("proj",), dora=True)
    with pytest.raises(ValueError, match=r"this one carries LoRAOutput: attach LoRA\(dora=True\) first"):
        vp.attach(vp.attach(tiny("vit"), output), dora)
    model = vp.attach(vp.attach(tiny("vit"), dora), output)
    randomise_tuned(model)
    assert_merges_exactly(model)
