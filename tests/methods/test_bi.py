"""Bi-AdaptFormer and Bi-LoRA: their equations written out, counts and bytes, starts, refusals."""

from typing import Any

import pytest
import safetensors.torch
import torch
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny
from support.vit_base import vit_base_without_weights
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.bake import baked_state_dict
from vision_peft.tuning.blocks import attn_half, blocks, linears, mlp_half
from vision_peft.tuning.few_bit_linear import codebook

L, D = 12, 768


def nearest(w: Tensor, bits: int) -> Tensor:
    """Each number of a latent weight as its nearest code, in the units of the weight."""
    codes = torch.tensor(codebook(bits))
    z = (w - w.mean()) / (w.std(correction=1) + 1e-5)
    return codes[(z.unsqueeze(-1) - codes).abs().argmin(-1)] * w.std(correction=1) + w.mean()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("family", ["vit", "deit3", "eva02_base", "swin"])
def test_every_block_adds_the_branch_to_the_mlp(family, bits):
    plain: Any = tiny(family)
    model: Any = vp.attach(tiny(family), vp.BiAdaptFormer(bottleneck=4, bits=bits, scale=0.7))
    randomise_tuned(model)
    vp.restore_last_block(model)
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model.eval()(images(model))
        for bare, (block, (x,), kwargs, y) in zip(blocks(plain), calls, strict=True):
            down, up = (nearest(getattr(block.bi_adaptmlp, part).weight, bits) for part in ("down", "up"))
            middle = attn_half(bare, x, **kwargs)
            added = 0.7 * (middle @ down.T).relu() @ up.T
            assert added.abs().max() > 0.01, "the branch does nothing"
            torch.testing.assert_close(y, mlp_half(bare, middle) + added, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("family", ["vit", "beit", "eva02_base", "swin_v2"])
def test_queries_and_values_get_their_updates(family, bits):
    model: Any = vp.attach(tiny(family), vp.BiLoRA(rank=4, bits=bits, scale=0.7))
    randomise_tuned(model)
    attn: Any = blocks(model)[0].attn
    fused = getattr(attn, "qkv", None) is not None
    updates = attn.qkv.bi_lora if fused else {"q": attn.q_proj.bi_lora, "v": attn.v_proj.bi_lora}
    x = torch.randn(2, 3, linears(blocks(model)[0], "qkv")[0].in_features)
    for name in "qv":
        down, up = (nearest(getattr(updates[name], part).weight, bits) for part in ("down", "up"))
        layer, bare = (linears(blocks(m)[0], "qkv" if fused else name)[0] for m in (model, tiny(family)))
        change = (layer(x) - bare(x)).chunk(3, -1)["qkv".index(name)] if fused else layer(x) - bare(x)
        expected = 0.7 * x @ down.T @ up.T
        assert expected.abs().max() > 0.001, "the update does nothing"
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)
    if fused:
        assert torch.equal(layer(x).chunk(3, -1)[1], bare(x).chunk(3, -1)[1])


@pytest.mark.parametrize(
    ("method", "latent", "stored"),
    [
        (vp.BiAdaptFormer(bottleneck=1), 18_432, 2_496),
        (vp.BiAdaptFormer(bottleneck=32), 589_824, 73_920),
        (vp.BiLoRA(rank=1), 36_864, 4_992),
        (vp.BiLoRA(rank=32), 1_179_648, 147_840),
        (vp.BiAdaptFormer(bottleneck=8, bits=2), 147_456, 2 * D * 8 * L * 2 // 8 + 8 * 2 * L),
        (vp.BiLoRA(rank=8, bits=4), 294_912, 4 * D * 8 * L * 4 // 8 + 8 * 4 * L),
    ],
    ids=repr,
)
def test_counts_are_those_of_the_closed_form_and_so_are_the_bytes_that_are_stored(method, latent, stored):
    with torch.device("meta"):
        model = vp.attach(vit_base_without_weights(), method)
        counts, held = vp.count_parameters(model), baked_state_dict(model).values()
    matrices = L * (2 if isinstance(method, vp.BiAdaptFormer) else 4)
    assert (counts.trained, counts.stored) == (latent, stored - 8 * matrices + 2 * matrices)
    assert sum(tensor.numel() * tensor.element_size() for tensor in held) == stored


@pytest.mark.parametrize("method", [vp.BiAdaptFormer(bottleneck=4, bits=2), vp.BiLoRA(rank=4)], ids=repr)
def test_an_adapter_folder_holds_codes_and_two_numbers_a_matrix(method, tmp_path):
    model: Any = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path)
    state = safetensors.torch.load_file(tmp_path / "adapter.safetensors")
    sizes = {name.rsplit(".", 1)[1]: t.numel() * t.element_size() for name, t in state.items() if "bi_" in name}
    assert sizes == {"codes": 32 * 4 * method.bits // 8, "mean": 4, "std": 4}
    fresh: Any = vp.load_adapter(tiny("vit"), tmp_path)
    assert all(".weight" not in name for name, _ in vp.tuned_parameters(fresh) if "bi_" in name)
    latent = vp.save_adapter(model, tmp_path / "latent", keep_reparametrization=True)
    again: Any = vp.load_adapter(tiny("vit"), latent)
    assert torch.equal(again.eval()(images(model)), model.eval()(images(model)))


def test_the_start_is_a_plain_linear_layer_in_front_of_small_numbers():
    for method, parts in ((vp.BiAdaptFormer(), "bi_adaptmlp"), (vp.BiLoRA(), "bi_lora")):
        model = vp.attach(tiny("vit"), method)
        tuned = {name: p for name, p in vp.tuned_parameters(model) if parts in name}
        down = torch.stack([p for name, p in tuned.items() if ".down." in name])
        up = torch.stack([p for name, p in tuned.items() if ".up." in name])
        assert 0.9 * 32**-0.5 < down.abs().max() <= 32**-0.5
        assert 0.0005 < up.std() < 0.0011
        assert 0.0015 < up.abs().max() <= 0.002


def test_dropout_acts_between_the_two_matrices():
    model: Any = vp.train_mode(vp.attach(tiny("vit"), vp.BiAdaptFormer(bottleneck=16, dropout=0.5)))
    branch = blocks(model)[0].bi_adaptmlp.double()
    torch.manual_seed(0)
    x = torch.randn(16, 5, 32, dtype=torch.float64)
    with torch.no_grad():
        branch.up.weight.normal_()
        whole = branch.down(x).relu()
    given = branch(x) @ torch.linalg.pinv(branch.up.quantised()).T  # what W_up read
    kept = given.abs() > 1e-9
    assert 0.3 < kept.sum() / (whole > 0).sum() < 0.7
    torch.testing.assert_close(given[kept], 2 * whole[kept])


@pytest.mark.parametrize("kind", [vp.BiAdaptFormer, vp.BiLoRA])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bits": 3}, "bits must be one of 1, 2, 4; got 3"),
        ({"bits": 32}, "bits must be one of 1, 2, 4; got 32"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"blocks": "some"}, "blocks must be"),
    ],
)
def test_impossible_fields_are_refused(kind, fields, reason):
    with pytest.raises(ValueError, match=reason):
        kind(**fields)


@pytest.mark.parametrize(("kind", "size"), [(vp.BiAdaptFormer, "bottleneck"), (vp.BiLoRA, "rank")])
def test_an_impossible_size_is_refused(kind, size):
    with pytest.raises(ValueError, match=f"{size} must be a number above 0; got 0"):
        kind(**{size: 0})
