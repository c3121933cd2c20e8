"""LoRA against HF peft and against the dense update of the weights."""

import copy
from typing import Any

import pytest
import timm
import torch
from support.families import ALL, BYPASSED, FAMILIES, images, randomise_tuned, tiny
from support.lora_weights import SCALE, dense_reference, random_lora
from torch import nn

import vision_peft as vp
from vision_peft.tuning.blocks import blocks, linears

SLICES = [("q",), ("k",), ("v",), ("q", "v"), ("q", "k", "v"), ("v", "k", "q")]


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("targets", [("q", "v"), "all-linear"])
def test_dropout_trains_on_every_family(family, targets):
    model = tiny(family)
    try:
        vp.attach(model, vp.LoRA(rank=2, targets=targets, dropout=0.5))
    except ValueError:  # no blocks, or queries and values of their own
        return
    model.train()
    model(torch.cat([images(model)] * 2)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in vp.tuned_parameters(model))


def test_a_shared_a_over_qkv_equals_hf_peft_in_outputs_and_gradients():
    peft: Any = pytest.importorskip("peft", reason="needs peft, of the extra test")
    plain = tiny("vit")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["qkv"], lora_dropout=0.0, init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(plain), config)
    model = vp.attach(plain, vp.LoRA(rank=4, alpha=6, targets=("qkv",)))
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    for i in range(2):
        layer: Any = theirs.base_model.model.blocks[i].attn.qkv
        for ours, reference in (("A", layer.lora_A), ("B", layer.lora_B)):
            pairs.append((model.get_parameter(f"blocks.{i}.attn.qkv.lora.{ours}"), reference["default"].weight))
    with torch.no_grad():
        for ours, reference in pairs:
            assert ours.shape == reference.shape
            ours.copy_(reference)
    x = images(model)
    logits, expected = model(x), theirs(x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for ours, reference in pairs:
        assert (ours.grad - reference.grad).norm() / reference.grad.norm() < 1e-5  # pyright: ignore


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [*SLICES, ("proj",), ("fc1", "fc2"), ("qkv", "proj")], ids="+".join)
def test_outputs_equal_the_dense_update_of_the_weights(family, targets):
    model = random_lora(family, alpha=3, targets=targets)
    x = images(model)
    plain, weights = dense_reference(family, model)
    assert weights
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("family", [*BYPASSED, "vit", "dinov3", "swin"])
@pytest.mark.parametrize("targets", [("qkv",), ("q", "k", "v")], ids="+".join)
def test_gradients_equal_those_of_the_dense_weight_also_where_timm_bypasses_qkv(family, targets):
    model = random_lora(family, alpha=3, targets=targets)
    x = images(model)
    plain, weights = dense_reference(family, model)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for name, weight in weights.items():
        lora: Any = model.get_submodule(f"{name}.lora")
        gradient: Any = weight.grad
        shared = targets == ("qkv",)
        updates = [(lora, gradient)] if shared else zip(lora.values(), gradient.chunk(3), strict=True)
        for update, g in updates:  # dL/dB = (α/r) G Aᵀ and dL/dA = (α/r) Bᵀ G
            assert (update.B.grad - SCALE * g @ update.A.T).norm() < 1e-4 * update.B.grad.norm()
            assert (update.A.grad - SCALE * update.B.T @ g).norm() < 1e-4 * update.A.grad.norm()
            assert update.B.grad.abs().max() > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [("q", "v"), ("k", "proj", "fc1", "fc2")], ids="+".join)
def test_merge_writes_the_dense_update_into_the_weights(family, targets):
    model = random_lora(family, alpha=3, targets=targets)
    _, weights = dense_reference(family, model)
    bypassed = [block.attn for block in blocks(model)]
    vp.merge(model)
    for name, weight in weights.items():
        torch.testing.assert_close(model.get_submodule(name).weight, weight)
    assert not any(vars(attn).get("qkv_bias_separate") for attn in bypassed)


@pytest.mark.parametrize("family", BYPASSED)
def test_detach_gives_timms_bypass_back(family):
    model = tiny(family)
    flags = [block.attn.qkv_bias_separate for block in blocks(model)]
    vp.attach(model, vp.LoRA(rank=2))
    assert all(block.attn.qkv_bias_separate for block in blocks(model))
    vp.detach(model)
    assert [block.attn.qkv_bias_separate for block in blocks(model)] == flags


def test_a_gqa_model_gets_updates_of_the_right_shape():
    model = timm.create_model(
        "eva02_base_patch14_224",
        embed_dim=48,
        depth=1,
        num_heads=4,
        img_size=28,
        attn_type="rope",
        num_kv_heads=2,
    )
    vp.attach(model, vp.LoRA(rank=2, targets=("q", "k", "v")))
    (block,) = blocks(model)
    assert [linears(block, s)[0].lora.B.shape[0] for s in "qkv"] == [48, 24, 24]  # pyright: ignore


def test_it_starts_as_in_the_official_code_a_from_kaiming_uniform_and_b_from_zero():
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    vp.attach(model, vp.LoRA(rank=64))
    lora: Any = model.get_submodule("blocks.0.attn.qkv.lora.q")
    bound = 1 / 768**0.5  # kaiming_uniform with a = √5: √(6 / ((1 + 5) · fan_in))
    assert lora.A.abs().max() <= bound
    assert abs(lora.A.std().item() / (bound / 3**0.5) - 1) < 0.02
    assert lora.B.abs().max() == 0


def test_dropout_acts_on_the_input_of_a_only():
    model = random_lora("vit", dropout=0.5, targets=("proj",))
    linear: Any = model.get_submodule("blocks.0.attn.proj")
    x = torch.randn(2, 4, 32)
    vp.train_mode(model)
    torch.manual_seed(0)
    y = linear(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    base = x @ linear.weight.T + linear.bias
    torch.testing.assert_close(y, base + dropped @ linear.lora.A.T @ linear.lora.B.T * (8 / 2))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"targets": ("q", "proj_output"), "dora": True}, "proj_output is a map of an output and has no weight"),
        ({"targets": ("query",)}, "targets must be one of"),
        ({"targets": ()}, "at least one"),
        ({"targets": ("q", "q")}, "distinct"),
        ({"targets": ("qkv", "q")}, "qkv includes q, k and v"),
        ({"rank": 0}, "rank must"),
        ({"rank": "8"}, "rank must"),
        ({"alpha": -1}, "alpha must"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"init": "normal"}, "init must be one of 'kaiming', 'gaussian', .*; got 'normal'"),
        ({"dora": "yes"}, "dora must be true or false"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.LoRA(**fields)


def test_targets_may_come_as_a_list_from_a_config():
    assert vp.LoRA(targets=["q", "v"]) == vp.LoRA(targets=("q", "v"))  # pyright: ignore[reportArgumentType]
    assert hash(vp.LoRA(targets=["q", "v"])) == hash(vp.LoRA())  # pyright: ignore[reportArgumentType]


def test_a_rank_above_the_width_is_refused_at_attach():
    with pytest.raises(ValueError, match=r"rank=33 is above .* a layer from 32 to 32 channels \(blocks.0.attn.qkv.q\)"):
        vp.attach(tiny("vit"), vp.LoRA(rank=33))
    with pytest.raises(ValueError, match="rank=33 is above the full rank of a layer from 32 to 32 channels"):
        vp.attach(tiny("vit"), vp.LoRA(rank=33, targets=("proj_output",)))


def test_rank_stabilised_scaling_divides_by_the_root_of_the_rank():
    assert vp.LoRA().scaling_of(16, 8) == 8 / 16
    assert vp.LoRA(rslora=True).scaling_of(16, 8) == 8 / 4
    one, other = (
        vp.attach(tiny("vit"), vp.LoRA(rank=4, alpha=alpha, rslora=rslora))
        for alpha, rslora in ((6, True), (12, False))
    )
    randomise_tuned(one)
    vp.load_tuned(other, vp.tuned_state_dict(one))
    assert torch.equal(one(images(one)), other(images(one)))


def test_presets_differ_in_how_a_starts():
    assert vp.LoRA.as_published(rank=4) == vp.LoRA(rank=4)
    assert vp.LoRA.as_in_paper(rank=4) == vp.LoRA(rank=4, init="gaussian")
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    vp.attach(model, vp.LoRA.as_in_paper(rank=16))
    lora: Any = model.get_submodule("blocks.0.attn.qkv.lora.q")
    assert abs(lora.A.std().item() * 16 - 1) < 0.02  # 12,288 draws: the standard error is 0.6 %
    assert lora.A.abs().max() > 3 / 16
    assert lora.B.abs().max() == 0
