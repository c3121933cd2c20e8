"""IA3 against the paper's equation, the scaled weights of a plain model, and HF peft."""

import copy
from typing import Any

import pytest
import torch
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from torch import nn

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.blocks import blocks

L, D, H = 12, 768, 3072  # blocks, width, hidden width of the MLP
SEPARATE = ["eva02_base", "rope_gqa"]  # q, k and v come from layers of their own
FUSED = [family for family in FAMILIES if family not in SEPARATE]


def random_ia3(family: str, **fields: Any) -> Any:
    model = vp.attach(tiny(family), vp.IA3(**fields))
    randomise_tuned(model)
    return model


def scaled(family: str, model: nn.Module) -> nn.Module:
    """A plain model whose weights and biases are scaled from outside by the scales of ``model``."""
    plain, state = tiny(family), model.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if "ia3_scale" not in name})
    with torch.no_grad():
        for block, (name, _) in zip(blocks(plain), named_blocks(model), strict=True):
            for letter, i in (("k", 1), ("v", 2)):
                if family in SEPARATE:
                    scale, layer = state[f"{name}.attn.{letter}_proj.ia3_scale"], getattr(block.attn, f"{letter}_proj")
                    weight, bias = layer.weight, layer.bias
                else:
                    scale, layer = state[f"{name}.attn.qkv.ia3_scale.{letter}"], block.attn.qkv
                    weight, bias = layer.weight.chunk(3)[i], None if layer.bias is None else layer.bias.chunk(3)[i]
                    bias = getattr(block.attn, f"{letter}_bias", None) if bias is None else bias
                weight *= scale[:, None]
                if bias is not None:
                    bias *= scale
            block.mlp.fc2.weight *= state[f"{name}.mlp.fc2.ia3_scale"]
    return plain


def named_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for block in blocks(model) for name, module in model.named_modules() if module is block]


def test_a_block_computes_the_papers_equation():
    model = random_ia3("vit")
    block = model.blocks[0]
    assert block.attn.num_heads == 2
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    l_k, l_v = block.attn.qkv.ia3_scale["k"], block.attn.qkv.ia3_scale["v"]
    layer = block.attn.qkv
    q, k, v = nn.functional.linear(block.norm1(x), layer.weight, layer.bias).split(32, dim=-1)
    heads = []
    for head in (slice(0, 16), slice(16, 32)):
        scores = q[..., head] @ (l_k * k)[..., head].transpose(1, 2) / 16**0.5
        heads.append(scores.softmax(dim=-1) @ (l_v * v)[..., head])
    x1 = x + block.attn.proj(torch.cat(heads, dim=-1))
    hidden = block.mlp.fc2.ia3_scale * nn.functional.gelu(block.mlp.fc1(block.norm2(x1)))
    expected = x1 + nn.functional.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_merged_weights_are_those_of_a_plain_model_with_scaled_weights_and_biases(family):
    model, x = random_ia3(family), images(tiny(family))
    plain = scaled(family, model)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
    vp.merge(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", ["vit", "dinov2_swiglu", "eva02_tiny", "rope_gqa", "beit", "swin"])
def test_every_layer_has_one_scale_of_its_own_width(family):
    model = vp.attach(tiny(family), vp.IA3())
    layers = 3 if family in SEPARATE else 2
    assert [graft.depth(module) for _, module in graft.grafts(model)] == [1] * layers * len(blocks(model))
    for block in blocks(model):
        assert block.mlp.fc2.ia3_scale.shape == (block.mlp.fc2.in_features,)
        if family in SEPARATE:
            for layer in (block.attn.k_proj, block.attn.v_proj):
                assert layer.ia3_scale.shape == (layer.out_features,)
        else:
            width = block.attn.qkv.out_features // 3
            assert {name: scale.shape for name, scale in block.attn.qkv.ia3_scale.items()} == {
                "k": (width,),
                "v": (width,),
            }


def test_scales_start_at_one_and_the_tuned_model_at_the_pretrained_function_exactly():
    plain, model = tiny("vit"), vp.attach(tiny("vit"), vp.IA3())
    scales = [tensor for name, tensor in vp.tuned_state_dict(model).items() if "ia3_scale" in name]
    assert len(scales) == 2 * 3
    assert all(torch.equal(scale, torch.ones_like(scale)) for scale in scales)
    x = images(model)
    vp.restore_last_block(model)  # which rounds as the plain one does
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize(
    ("targets", "closed_form", "figure"),
    [
        (("k", "v", "fc2"), L * (D + D + H), 55_296),
        (("k", "v"), L * 2 * D, 18_432),
        (("v",), L * D, 9_216),
        (("fc2",), L * H, 36_864),
    ],
)
def test_trained_and_stored_parameters_are_those_of_the_closed_form(targets, closed_form, figure):
    assert closed_form == figure
    assert count_on_vit_base(vp.IA3(targets=targets))[:2] == (figure, figure)


@pytest.mark.parametrize("target", ["k", "v", "fc2"])
@pytest.mark.parametrize("family", ["vit", "eva02_base"])
def test_a_target_alone_is_the_default_with_the_other_scales_at_one(family, target):
    model, whole = random_ia3(family, targets=(target,)), vp.attach(tiny(family), vp.IA3())
    vp.load_tuned(whole, {**vp.tuned_state_dict(whole), **vp.tuned_state_dict(model)}, head="load")
    x = images(model)
    assert (model(x) - tiny(family)(x)).abs().max() > 1e-3
    torch.testing.assert_close(model(x), whole(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["vit", "dinov2_swiglu", "swin", "eva02_base"])
def test_outputs_and_gradients_equal_hf_pefts(family):
    peft: Any = pytest.importorskip("peft", reason="needs peft, of the extra test")
    layers = ["k_proj", "v_proj"] if family in SEPARATE else ["qkv"]
    config = peft.IA3Config(target_modules=[*layers, "fc2"], feedforward_modules=["fc2"])
    model, theirs = random_ia3(family), peft.get_peft_model(copy.deepcopy(tiny(family)), config).eval()
    pairs = []
    for name, module in graft.grafts(model):
        (reference,) = theirs.base_model.model.get_submodule(name).ia3_l.values()
        scale: Any = module.ia3_scale
        parts = {"": scale} if isinstance(scale, nn.Parameter) else dict(scale)
        for letter, ours in parts.items():
            rows = (
                slice(None)
                if not letter
                else slice("qkv".index(letter) * len(ours), ("qkv".index(letter) + 1) * len(ours))
            )
            reference.data.flatten()[rows] = ours.data  # their scale of a fused layer has a part for q, which stays 1
            pairs.append((ours, reference, rows))
    theirs.base_model.model.head.load_state_dict(model.head.state_dict())
    x = images(model)
    logits, expected = model(x), theirs(x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    assert len(pairs) == 3 * len(blocks(model))
    for ours, reference, rows in pairs:
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad, reference.grad.flatten()[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["vit", "eva02_base", "beit", "swin"])
def test_lora_in_front_of_it_merges(family):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, targets=("q", "k", "v", "fc2")))
    assert_merges(vp.attach(model, vp.IA3()))


@pytest.mark.parametrize("other", [vp.LoRA(rank=2, targets=("k", "v", "fc2")), vp.SSF()], ids=["LoRA", "SSF"])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_method_behind_it_merges_where_the_bias_is_part_of_the_layer(family, other):
    assert_merges(vp.attach(vp.attach(tiny(family), vp.IA3()), other))


def assert_merges(model: nn.Module) -> None:
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


def test_where_the_bias_is_beside_the_layer_ia3_has_to_be_the_last_to_merge():
    assert_merges(vp.attach(vp.attach(tiny("beit"), vp.SSF()), vp.IA3()))
    model = vp.attach(vp.attach(tiny("beit"), vp.IA3()), vp.SSF())
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"cannot merge IA3, SSF: SSFProjection changes .* attach IA3 last \(.*qkv\)"):
        vp.merge(model)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("targets", [(), ("k", "k"), ("q",), ("fc1",)])
def test_other_targets_are_refused(targets):
    with pytest.raises(ValueError, match=r"targets must be .*one of 'k', 'v', 'fc2'; got"):
        vp.IA3(targets=targets)
