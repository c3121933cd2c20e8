"""LoRA on all linear layers, with ranks and scales of some layers' own, biases, convolutions and dropped experts."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.families import FAMILIES, images, randomise_tuned, tiny
from torch import nn

import vision_peft as vp
from vision_peft.tuning import graft, record
from vision_peft.tuning.backbone import classifier_names


def ranks(model: nn.Module) -> dict[str, int]:
    return {n.removesuffix(".A"): len(t) for n, t in vp.tuned_state_dict(model).items() if n.endswith(".A")}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_is_every_linear_layer_but_the_head_and_what_is_too_narrow(family):
    model = tiny(family)
    heads = classifier_names(model)
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in heads}
    narrow = {n for n in linear if min(model.get_submodule(n).weight.shape) < 3}
    assert all("meta_mlp" in name or "cpb_mlp" in name for name in narrow)
    vp.attach(model, vp.LoRA(rank=3, targets="all-linear"))  # pyright: ignore[reportArgumentType]
    assert ranks(model) == {f"{name}.lora": 3 for name in linear - narrow}


def test_all_linear_leaves_out_what_other_methods_added():
    model = vp.attach(tiny("vit"), vp.AdaptFormer(bottleneck=4))
    vp.attach(model, vp.LoRA(rank=2, targets=("all-linear", "patch_embed")))
    assert len(ranks(model)) == 2 * 4 + 1
    assert vp.LoRA(targets=("all-linear",)).remark == "all-linear leaves the head out, which trains whole"
    assert vp.LoRA().remark is None


def test_layers_outside_of_the_chosen_blocks_are_left_alone():
    model = vp.attach(tiny("swin"), vp.LoRA(rank=2, targets=("all-linear",), blocks=(2,)))
    own = {f"layers.1.blocks.0.{name}.lora" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert set(ranks(model)) == {*own, "layers.1.downsample.reduction.lora"}  # stands in front of block 2
    with pytest.raises(ValueError, match="patch_embed stands in front of block 0, which is not among the chosen"):
        vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=("q", "patch_embed"), blocks="last 1"))


def test_ranks_and_alphas_go_by_the_end_of_the_name_and_the_longest_counts():
    method = vp.LoRA(
        rank=2,
        alpha=4,
        targets=("q", "v", "proj", "fc1"),
        rank_pattern={"proj": 3, "blocks.1.attn.proj": 5, "qkv.v": 1, "attn.qkv": 4, "1.mlp.fc1": 0},
        alpha_pattern={"attn.proj": 9, "q": 2},
    )
    model = vp.attach(tiny("vit"), method)
    assert ranks(model) == {
        **{f"blocks.{i}.attn.qkv.lora.q": 4 for i in range(2)},
        **{f"blocks.{i}.attn.qkv.lora.v": 1 for i in range(2)},
        "blocks.0.attn.proj.lora": 3,
        "blocks.1.attn.proj.lora": 5,
        "blocks.0.mlp.fc1.lora": 2,
    }
    layers: Any = [model.get_submodule(f"blocks.{i}") for i in range(2)]
    assert not isinstance(layers[1].mlp.fc1, graft.Graft)
    assert [block.attn.proj.lora.scaling for block in layers] == [9 / 3, 9 / 5]
    assert layers[0].attn.qkv.lora["q"].scaling == 2 / 4
    assert layers[0].attn.qkv.lora["v"].scaling == 4 / 1
    assert layers[0].mlp.fc1.lora.scaling == 4 / 2


def test_three_layers_that_share_a_are_named_as_the_fused_layer_is():
    model = vp.attach(tiny("eva02_base"), vp.LoRA(rank=2, targets=("qkv",), rank_pattern={"1.attn.qkv": 3}))
    assert ranks(model) == {"blocks.0.attn.q_proj.lora": 2, "blocks.1.attn.q_proj.lora": 3}


def test_an_adapter_keeps_its_patterns(tmp_path):
    method = vp.LoRA(rank=2, targets=("q", "proj"), rank_pattern={"q": 3, "0.attn.proj": 0}, alpha_pattern={"q": 1.5})
    model = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path)
    loaded = vp.load_adapter(tiny("vit"), tmp_path)
    found = record.find(loaded)
    assert found is not None
    assert found.methods == [method]
    assert torch.equal(loaded(images(model)), model(images(model)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rank_pattern": {"q": -1}}, r"rank_pattern must give whole numbers from 0; got q: -1"),
        ({"rank_pattern": {"q": 2.0}}, r"rank_pattern must give whole numbers from 0; got q: 2.0"),
        ({"rank_pattern": {"q": True}}, r"rank_pattern must give whole numbers from 0; got q: True"),
        ({"rank_pattern": 3}, "rank_pattern must be keys and values; got 3"),
        ({"alpha_pattern": {"q": 0}}, r"alpha_pattern must give numbers above 0; got q: 0"),
        ({"alpha_pattern": {"q": "1"}}, r"alpha_pattern must give numbers above 0; got q: '1'"),
        ({"targets": ("all-linear", "q")}, "targets name all-linear and q, which it includes: give only one"),
        ({"expert_dropout": 1.0}, r"expert_dropout must lie in \[0, 1\)"),
        ({"eva_rho": 0.5}, "eva_rho must be at least 1; got 0.5"),
        ({"eva_images": 0}, "eva_images must be"),
        ({"dora": True, "lora_bias": True}, "cannot include a bias after B: give lora_bias=False"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.LoRA(**fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rank_pattern": {"proj": 2}}, r"rank_pattern names 'proj', which is none of the layers that are adapted"),
        (
            {"alpha_pattern": {"blocks.0.attn.qk": 2}},
            r"did you mean .*wanted the name of a layer or its end",
        ),
        ({"rank_pattern": {"kv.q": 2}}, "rank_pattern names 'kv.q'"),
        ({"rank_pattern": {"qkv": 0}}, "rank_pattern leaves no layer to adapt"),
        ({"rank_pattern": {"1.attn.qkv.v": 33}}, r"rank=33 is above .* \(blocks.1.attn.qkv.v\): choose at most 32"),
    ],
)
def test_patterns_that_do_not_fit_the_backbone_are_refused_and_nothing_is_attached(fields, reason):
    model = tiny("vit")
    with pytest.raises(ValueError, match=reason):
        vp.attach(model, vp.LoRA(rank=2, **fields))
    assert not list(graft.grafts(model))
    assert record.find(model) is None


def test_a_bias_behind_b_is_scaled_learns_and_folds():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, alpha=3, targets=("v", "fc1", "patch_embed"), lora_bias=True))
    assert all((t == 0).all() for n, t in vp.tuned_state_dict(model).items() if ".lora." in n and n.endswith("bias"))
    randomise_tuned(model)
    layer: Any = model.get_submodule("blocks.0.mlp.fc1")
    x = torch.randn(3, 32)
    expected = x @ layer.weight.T + layer.bias + 1.5 * (x @ layer.lora.A.T @ layer.lora.B.T + layer.lora.bias)
    torch.testing.assert_close(layer(x), expected)
    image = images(model)
    before = model(image)
    torch.testing.assert_close(vp.merge(model)(image), before, rtol=1e-5, atol=1e-5)


def test_a_bias_has_nowhere_to_go_in_a_layer_without_one():
    model = vp.attach(tiny("clip"), vp.LoRA(rank=2, targets=("patch_embed",), lora_bias=True))
    with pytest.raises(ValueError, match=r"a shift behind a layer without a bias has nowhere .*\(patch_embed.proj\)"):
        vp.merge(model)


@pytest.mark.parametrize("family", ["vit", "tubelet"])
@pytest.mark.parametrize("dora", [False, True])
def test_a_convolution_computes_with_the_updated_kernels(family, dora):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, targets=("patch_embed",), dora=dora))
    randomise_tuned(model)
    layer: Any = model.get_submodule("patch_embed.proj")
    kernels = layer.weight + 1.5 * (layer.lora.B @ layer.lora.A.flatten(1)).view_as(layer.weight)
    if dora:
        length = kernels.detach().flatten(1).norm(dim=1)
        kernels = kernels * (layer.lora.magnitude / length).view(-1, *[1] * (kernels.ndim - 1))
    x = torch.randn(2, *layer.weight.shape[1:2], *[16] * (layer.weight.ndim - 2))
    convolve = F.conv2d if layer.weight.ndim == 4 else F.conv3d
    expected = convolve(x, kernels, layer.bias, layer.stride)
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(y.square().sum(), [layer.lora.A, layer.lora.B])
    theirs = torch.autograd.grad(expected.square().sum(), [layer.lora.A, layer.lora.B])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_dropped_experts_are_whole_the_rest_is_scaled_and_one_draw_serves_the_batch():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=4, alpha=4, targets=("fc1",), expert_dropout=0.5))
    randomise_tuned(model)
    layer: Any = model.get_submodule("blocks.0.mlp.fc1")
    x, A, B = torch.randn(5, 3, 32), layer.lora.A, layer.lora.B
    base = x @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(x), base + x @ A.T @ B.T)  # in eval mode none
    vp.train_mode(model)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        update = layer(x) - base
        masks = [torch.tensor([float(i >> e & 1) for e in range(4)]) for i in range(16)]
        fitting = [m for m in masks if torch.allclose(update, 2 * (x @ A.T * m) @ B.T, atol=1e-5)]
        assert len(fitting) == 1  # the same experts for every token of every image
        seen.add(tuple(fitting[0].tolist()))
    assert len(seen) > 3
