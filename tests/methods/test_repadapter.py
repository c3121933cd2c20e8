"""RepAdapter's equation written out with a dense block-diagonal B; folding, where it must refuse, stacking."""

from typing import Any

import pytest
import timm
import torch
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.layers import Attention
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of_block


def adapted(adapter: Any, z: Tensor, scale: float, groups: int) -> Tensor:
    """z + s (B (A z + a) + b): output channel o reads the latent channels of its own group only."""
    latent = z @ adapter.down_proj.weight.T + adapter.down_proj.bias
    dim, hidden = z.shape[-1], latent.shape[-1]
    B = torch.zeros(dim, hidden)
    for o in range(dim):
        group, row = divmod(o, dim // groups)
        for h in range(hidden // groups):
            B[o, group * (hidden // groups) + h] = adapter.up[group, row, h]
    return z + scale * (latent @ B.T + adapter.up_bias)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("family", ["vit", "dinov2_reg4", "eva02_base", "beit", "swin"])
def test_what_attention_and_mlp_read_is_the_adapted_norm(family, groups):
    model = vp.attach(tiny(family), vp.RepAdapter(bottleneck=4, groups=groups, scale=0.7))
    randomise_tuned(model)
    plain = tiny(family)
    norms = [norm for block in blocks(model) for norm in (block.norm1, block.norm2)]
    plain_norms = [norm for block in blocks(plain) for norm in (block.norm1, block.norm2)]
    with torch.no_grad(), recorded_calls(norms) as calls:
        model.eval()(images(model))
        assert len(calls) == len(norms)
        for (norm, (x,), _, y), reference in zip(calls, plain_norms, strict=True):
            z = reference(x)
            assert (y - z).abs().max() > 0.01, "the adapter does nothing: this test tests nothing"
            torch.testing.assert_close(y, adapted(norm.repadapter, z, 0.7, groups), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bottleneck", "sites", "figure"),
    [(8, ("attn", "mlp"), 239_808), (4, ("attn", "mlp"), 129_120), (8, ("attn",), 119_904), (16, ("mlp",), 230_592)],
)
def test_counts_are_those_of_the_closed_form(bottleneck, sites, figure):
    D, h, g = 768, bottleneck, 2
    counts = count_on_vit_base(vp.RepAdapter(bottleneck=h, groups=g, sites=sites))
    assert counts.trained == counts.stored == 12 * len(sites) * ((D * h + h) + (D * h // g + D)) == figure


def merged_and_plain(family: str, *methods: vp.Method) -> tuple[Tensor, Tensor]:
    model = tiny(family)
    for method in methods:
        vp.attach(model, method)
    randomise_tuned(model)
    x = images(model)
    expected = model.eval()(x)
    vp.merge(model)
    plain = tiny(family, seed=3)
    plain.load_state_dict(model.state_dict(), strict=True)
    return plain(x), expected


@pytest.mark.parametrize("other", [vp.LoRA(rank=2, targets=("qkv", "fc1")), vp.FacT(rank=4)], ids=repr)
@pytest.mark.parametrize("order", [1, -1])
def test_merging_with_updates_of_the_layers_it_folds_into_is_exact_in_both_orders(other, order):
    found, expected = merged_and_plain("vit", *[vp.RepAdapter(), other][::order])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_earlier_scale_of_the_norm_merges_and_a_later_one_is_refused():
    found, expected = merged_and_plain("vit", vp.SSF(), vp.RepAdapter())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="SSFLast was attached behind the adapter on the same norm: attach it first"):
        merged_and_plain("vit", vp.RepAdapter(), vp.SSF())


@pytest.mark.parametrize("family", ["dinov3", "beit", "eva02_base"])
def test_in_front_of_the_mlp_alone_it_folds_into_the_mlp(family):
    found, expected = merged_and_plain(family, vp.RepAdapter(sites=("mlp",)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["beit", "beit_shared_bias"])
def test_on_beit_the_shift_joins_the_biases_of_q_and_v_and_leaves_softmax_over_the_keys_alone(family):
    tuned, plain = vp.attach(tiny(family), vp.RepAdapter(bottleneck=4, scale=0.7)), tiny(family)
    randomise_tuned(tuned)
    x = images(tuned)
    expected, shifts = tuned.eval()(x), []
    for block in blocks(tuned):
        adapter = block.norm1.repadapter
        shifts.append(adapted(adapter, torch.zeros(1, 32), 0.7, 2)[0])
    assert all(shift.abs().max() > 0.05 for shift in shifts)
    vp.merge(tuned)
    torch.testing.assert_close(tuned(x), expected, rtol=1e-5, atol=1e-5)
    for merged, reference, shift in zip(blocks(tuned), blocks(plain), shifts, strict=True):
        q, _, v = (reference.attn.qkv.weight @ shift).chunk(3)
        torch.testing.assert_close(merged.attn.q_bias, reference.attn.q_bias + q)
        torch.testing.assert_close(merged.attn.v_bias, reference.attn.v_bias + v)
        assert merged.attn.k_bias.abs().max() == 0


@pytest.mark.parametrize("order", [1, -1])
def test_on_beit_it_merges_with_updates_of_the_keys_in_both_orders(order):
    methods = [vp.RepAdapter(), vp.LoRA(rank=2, targets=("q", "k", "v", "proj_output"))]
    found, expected = merged_and_plain("beit", *methods[::order])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def without_qkv_biases(name: str, qkv_bias: bool) -> Any:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
    return timm.create_model(name, **arguments, depth=2, qkv_bias=qkv_bias).eval()


@pytest.mark.parametrize(
    ("name", "qkv_bias"),
    [("vit_tiny_patch16_224", False), ("beit_base_patch16_224", False), ("eva02_tiny_patch14_224", True)],
)
def test_without_biases_of_qkv_or_with_rotated_keys_the_shift_goes_through_the_inverse_into_the_norm(name, qkv_bias):
    tuned = vp.attach(without_qkv_biases(name, qkv_bias), vp.RepAdapter(bottleneck=4, scale=0.7))
    randomise_tuned(tuned)
    x, wanted = images(tuned), []
    expected = tuned(x)
    assert (expected - without_qkv_biases(name, qkv_bias)(x)).abs().max() > 1e-3
    for block in blocks(tuned):
        adapter, zero, identity = block.norm1.repadapter, torch.zeros(1, 32), torch.eye(32)
        shift = adapted(adapter, zero, 0.7, 2)[0]
        T = (adapted(adapter, identity, 0.7, 2) - shift).T
        wanted.append((block.norm1.bias + torch.linalg.inv(T) @ shift, block.attn.qkv.weight @ T))
    vp.merge(tuned)
    torch.testing.assert_close(tuned(x), expected, rtol=1e-5, atol=1e-5)
    for block, (bias, weight) in zip(blocks(tuned), wanted, strict=True):
        torch.testing.assert_close(block.norm1.bias, bias, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(block.attn.qkv.weight, weight, rtol=1e-5, atol=1e-5)
    fresh = without_qkv_biases(name, qkv_bias)
    fresh.load_state_dict(tuned.state_dict(), strict=True)
    assert torch.equal(fresh(x), tuned(x))


def test_a_map_without_an_inverse_is_refused_where_it_is_needed_and_changes_nothing():
    model = vp.attach(without_qkv_biases("vit_tiny_patch16_224", False), vp.RepAdapter(bottleneck=2, groups=1))
    adapter = blocks(model)[1].norm1.repadapter
    with torch.no_grad():  # T = I - e eᵀ for the first unit vector e, t = e
        adapter.down_proj.weight.copy_(torch.eye(32)[:2] * torch.tensor([[1.0], [0.0]]))
        adapter.up.copy_(-torch.eye(32)[None, :, :2])
        adapter.up_bias.copy_(torch.eye(32)[0])
    x = images(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"which I \+ M, not safely invertible, forbids \(blocks.1.norm1\)"):
        vp.merge(model)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("family", ["vit", "dinov2_swiglu"])
def test_norms_and_layers_without_biases_leave_no_place_for_the_shift(family):
    model = tiny(family)
    for block in blocks(model):
        block.norm1.bias = block.attn.qkv.bias = None
    vp.attach(model, vp.RepAdapter())
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    with pytest.raises(ValueError, match="between a norm and a Linear, both without a bias, has nowhere to go"):
        vp.merge(model)
    assert torch.equal(model(x), expected)


def test_an_attention_gate_that_reads_the_norm_is_folded_into_as_well():
    class GatedAttention(Attention):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, gated=True)

    def model() -> Any:
        torch.manual_seed(0)
        arguments: dict[str, Any] = {
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 32,
            "depth": 1,
            "num_heads": 2,
            "num_classes": 5,
        }
        return timm.create_model("vit_tiny_patch16_224", **arguments, attn_layer=GatedAttention).eval()

    tuned = vp.attach(model(), vp.RepAdapter())
    randomise_tuned(tuned)
    x = images(tuned)
    expected = tuned.eval()(x)
    assert (expected - model()(x)).abs().max() > 1e-3
    torch.testing.assert_close(vp.merge(tuned)(x), expected, rtol=1e-5, atol=1e-5)


def padded_swin() -> Any:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", **arguments, num_classes=5).eval()


@pytest.mark.parametrize("order", [1, -1])
def test_where_windows_are_padded_behind_the_norm_the_shift_goes_into_the_norm_and_leaves_the_padding_alone(order):
    tuned = padded_swin()
    assert any(family_of_block(block).pads_windows(block) for block in blocks(tuned))
    for method in [vp.RepAdapter(), vp.LoRA(rank=2, targets=("qkv", "fc1"))][::order]:
        vp.attach(tuned, method)
    randomise_tuned(tuned)
    x = images(tuned)
    expected = tuned.eval()(x)
    vp.merge(tuned)
    fresh = padded_swin()
    fresh.load_state_dict(tuned.state_dict(), strict=True)
    torch.testing.assert_close(fresh(x), expected, rtol=1e-5, atol=1e-5)


def test_prompts_of_vpt_pass_the_adapter_like_every_token():
    model: Any = vp.attach(vp.attach(tiny("vit"), vp.VPT(tokens=3)), vp.RepAdapter())
    randomise_tuned(model)
    with torch.no_grad(), recorded_calls([blocks(model)[0].norm1]) as calls:
        model.eval()(images(model))
    assert sorted(call[1][0].shape[1] for call in calls) == [3, 17]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bottleneck": 0}, "bottleneck must"),
        ({"groups": 3}, "groups must divide bottleneck=8; got groups=3"),
        ({"groups": 0}, "groups must"),
        ({"scale": 0}, "scale must"),
        ({"dropout": 1}, "dropout must"),
        ({"sites": ("qkv",)}, "sites must be one of 'attn', 'mlp'; got 'qkv'"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.RepAdapter(**fields)


def test_groups_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="groups must divide the width 32 of the block; got 3"):
        vp.attach(tiny("vit"), vp.RepAdapter(bottleneck=6, groups=3))
