"""LoRA whose A is shared by query, key and value projections that are layers of their own."""

import copy
from typing import Any

import pytest
import timm
import torch
from support.families import images, tiny
from support.lora_weights import SCALE, decomposed, dense_reference, random_lora

import vision_peft as vp
from vision_peft.tuning.blocks import blocks

SEPARATE = pytest.mark.parametrize("family", ["eva02_base", "rope_gqa"])  # q, k and v are layers of their own


@SEPARATE
@pytest.mark.parametrize("dora", [False, True])
def test_separate_projections_with_one_shared_a_are_the_fused_layer_cut_into_three(family, dora):
    model = random_lora(family, rank=3, alpha=4.5, targets=("qkv",), dora=dora)
    x, state, reference = torch.randn(2, 5, 32), {n: t.clone() for n, t in model.state_dict().items()}, tiny(family)
    for i, (tuned, plain) in enumerate(zip(blocks(model), blocks(reference), strict=True)):
        names = [f"blocks.{i}.attn.{letter}_proj" for letter in "qkv"]
        weight = torch.cat([state[f"{name}.weight"] for name in names])
        A, B = state[f"{names[0]}.lora.A"], torch.cat([state[f"{name}.lora.B"] for name in names])
        fused = weight + SCALE * B @ A
        if dora:
            lengths = torch.cat([state[f"{name}.lora.magnitude"] for name in names])
            fused = decomposed(weight, A, B, lengths, SCALE)
        assert (fused - weight).abs().max() > 1e-2
        projections: list[Any] = [getattr(tuned.attn, f"{letter}_proj") for letter in "qkv"]
        bias = torch.cat([torch.zeros(p.out_features) if p.bias is None else p.bias for p in projections])
        outputs = torch.cat([projection(x) for projection in projections], dim=-1)
        torch.testing.assert_close(outputs, x @ fused.T + bias, rtol=1e-5, atol=1e-5)
        sizes = [projection.out_features for projection in projections]
        for letter, rows in zip("qkv", fused.split(sizes), strict=True):
            getattr(plain.attn, f"{letter}_proj").weight.data.copy_(rows)
    reference.head.load_state_dict(model.get_submodule("head").state_dict())
    batch = images(model)
    expected = model(batch)
    torch.testing.assert_close(reference(batch), expected, rtol=1e-5, atol=1e-5)
    vp.merge(model)
    for merged, plain in zip(blocks(model), blocks(reference), strict=True):
        for letter in "qkv":
            weights = [getattr(block.attn, f"{letter}_proj").weight for block in (merged, plain)]
            torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-5)


@SEPARATE
def test_gradients_with_one_shared_a_are_those_of_the_fused_weight(family):
    model = random_lora(family, alpha=3, targets=("qkv",))
    x = images(model)
    plain, weights = dense_reference(family, model)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for i in range(2):
        names = [f"blocks.{i}.attn.{letter}_proj" for letter in "qkv"]
        A = model.get_parameter(f"{names[0]}.lora.A")
        B: Any = [model.get_parameter(f"{name}.lora.B") for name in names]
        gradient = torch.cat([weights[name].grad for name in names])  # pyright: ignore
        found = torch.cat([b.grad for b in B])
        torch.testing.assert_close(found, SCALE * gradient @ A.detach().T, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(A.grad, SCALE * torch.cat(B).detach().T @ gradient, rtol=1e-3, atol=1e-4)


@SEPARATE
def test_the_shared_a_is_one_parameter_that_is_counted_and_stored_once(family):
    model = vp.attach(tiny(family), vp.LoRA(rank=3, targets=("qkv",)))
    rows = 32 + 2 * (16 if family == "rope_gqa" else 32)  # one key and value head of 16 there
    counts = vp.count_parameters(model)
    assert counts.trained == counts.stored == 2 * 3 * (32 + rows)
    names = [n for n in vp.tuned_state_dict(model) if n.startswith("blocks.0")]
    letters = [f"blocks.0.attn.{letter}_proj.lora.B" for letter in "qkv"]
    assert sorted(names) == ["blocks.0.attn.k_proj.lora.B", "blocks.0.attn.q_proj.lora.A", *letters[::2]]
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


def test_a_shared_a_may_have_any_rank_that_the_fused_layer_allows():
    vp.attach(tiny("rope_gqa"), vp.LoRA(rank=32, targets=("qkv",)))  # the key layer has 16 rows
    with pytest.raises(ValueError, match="rank=33 is above the full rank of a layer from 32 to 64 channels"):
        vp.attach(tiny("rope_gqa"), vp.LoRA(rank=33, targets=("qkv",)))
    with pytest.raises(ValueError, match="rank=17 is above the full rank of a layer from 32 to 16 channels"):
        vp.attach(tiny("rope_gqa"), vp.LoRA(rank=17, targets=("q", "k")))


def test_a_shared_a_follows_the_device_and_type_of_the_backbone_and_its_copies():
    model: Any = vp.attach(tiny("eva02_base").double(), vp.LoRA(rank=2, targets=("qkv",)))
    attn = copy.deepcopy(model).blocks[0].attn
    assert attn.v_proj.lora.down() is attn.k_proj.lora.down() is attn.q_proj.lora.A
    assert attn.q_proj.lora.A.dtype == torch.float64
    assert attn.q_proj.lora.A is not model.blocks[0].attn.q_proj.lora.A
    with torch.device("meta"):
        meta: Any = timm.create_model("eva02_base_patch14_224", depth=1)
    vp.attach(meta, vp.LoRA(targets=("qkv",)))
    assert meta.blocks[0].attn.k_proj.lora.down().is_meta
