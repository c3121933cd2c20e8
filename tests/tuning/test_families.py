"""The seam at which blocks are split, against timm's own forward, and what the rest of the package knows of timm."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
from support.block_inputs import recorded_calls
from support.families import BYPASSED, WINDOWED, WITH_BLOCKS, images, tiny, with_drop_paths
from timm.models import vision_transformer
from torch import nn

import vision_peft as vp
from vision_peft.tuning.backbone import architecture, classifier_names, patch_area
from vision_peft.tuning.blocks import (
    blocks,
    branches,
    input_width,
    linears,
    run_in_halves,
    separate_biases,
    stages,
    width,
)
from vision_peft.tuning.families import family_of, family_of_block
from vision_peft.tuning.graft import ungraft

every_family = pytest.mark.parametrize("family", WITH_BLOCKS)


@every_family
def test_the_two_halves_and_the_end_are_exactly_timms_own_block(family):
    model = tiny(family)
    all_blocks = blocks(model)
    with torch.no_grad(), recorded_calls(all_blocks) as calls:
        model(images(model))
    assert [call[0] for call in calls] == all_blocks
    for block, args, kwargs, expected in calls:
        with torch.no_grad():
            y = run_in_halves(block, *args, **kwargs)
        assert _distance(y, expected) == 0.0


def _distance(y: Any, expected: Any) -> float:
    """Largest difference; of blocks that return the size of their map too, infinite where it is another."""
    if isinstance(expected, tuple):
        (y, size), (expected, expected_size) = y, expected
        if list(size) != list(expected_size):
            return float("inf")
    return (y - expected).abs().max().item()


@every_family
def test_the_two_halves_draw_the_same_drop_path_masks_as_timm(family):
    model = with_drop_paths(tiny(family)).train()
    all_blocks = blocks(model)
    with torch.no_grad(), recorded_calls(all_blocks) as calls:
        model(images(model, batch=8))
    for block, args, kwargs, _ in calls:
        with torch.no_grad():
            torch.manual_seed(0)
            expected = block(*args, **kwargs)
            torch.manual_seed(0)
            y = run_in_halves(block, *args, **kwargs)
            torch.manual_seed(1)
            other = block(*args, **kwargs)
        assert _distance(y, expected) == 0.0
        assert _distance(other, expected) > 0, "drop path does nothing: this test tests nothing"


def test_halves_get_real_rope_shared_bias_and_shifted_windows():
    seen: set[str] = set()
    for family in ("dinov3", "beit_shared_bias", "swin"):
        model = tiny(family)
        with torch.no_grad(), recorded_calls(blocks(model)) as calls:
            model(images(model))
        for block, _, kwargs, _ in calls:
            seen |= {name for name, value in kwargs.items() if value is not None}
            seen |= {"shift"} if family == "swin" and any(block.shift_size) else set()
    assert {"rope", "shared_rel_pos_bias", "shift"} <= seen


REFUSED = {
    "convnext_atto": ({}, "ConvNeXt has no transformer blocks that methods could split into attention and MLP: take"),
    "coatnet_nano_rw_224": ({}, "MaxxVit has no transformer blocks"),
    "resnet18": ({}, "ResNet has no transformer blocks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_architecture_has_no_blocks_and_says_what_fits_all_the_same(name):
    arguments, reason = REFUSED[name]
    model = timm.create_model(name, num_classes=5, **arguments)
    with pytest.raises(ValueError, match=reason):
        blocks(model)


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Sequential(nn.Conv2d(3, 3, 1))], ids=["Linear", "Sequential"])
def test_what_is_no_model_of_timm_is_refused_with_examples_of_what_would_do(model):
    with pytest.raises(
        ValueError, match=rf"cannot attach to {type(model).__name__}: wanted a model of timm .*ResNet\)"
    ):
        family_of(model)


@pytest.mark.parametrize("kind", ["ParallelScalingBlock", "DiffParallelScalingBlock"])
def test_blocks_that_are_not_split_at_the_seam_are_refused_by_name(kind):
    make = partial(timm.create_model, "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2)
    model = make(block_fn=getattr(vision_transformer, kind))
    with pytest.raises(ValueError, match=f"cannot attach to blocks of class {kind}: only blocks with one attention"):
        blocks(model)


@every_family
def test_the_named_classifiers_are_the_layers_that_timm_replaces(family):
    model = tiny(family)
    before = dict(model.named_modules())
    model.reset_classifier(3)
    replaced = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and before.get(n) is not m}
    assert set(classifier_names(model)) == replaced
    classifiers: Any = model.get_classifier()
    found = [model.get_submodule(name) for name in classifier_names(model)]
    wanted = list(classifiers if isinstance(classifiers, tuple) else [classifiers])
    assert found == ([getattr(classifiers, "fc", None)] if family == "sam" else wanted)


def test_a_distilled_model_has_two_classifiers():
    assert classifier_names(tiny("deit_distilled")) == ("head", "head_dist")


@every_family
def test_stages_are_the_blocks_in_order_and_tokens_merge_between_them(family):
    model = tiny(family)
    found = stages(model)
    assert [block for stage in found for block in stage] == blocks(model)
    assert [len(stage) for stage in found] == list(
        WITH_BLOCKS[family].stages or ([2, 2] if family in WINDOWED else [2])
    )
    mergings = [module for name, module in model.named_modules() if name.endswith("1.downsample")]
    assert family_of(model).token_mergings(model) == mergings


def test_architecture_tells_what_distinguishes_backbones():
    assert architecture(tiny("dinov2_reg4")) == {
        "class": "VisionTransformer",
        "depth": 2,
        "width": [32],
        "num_heads": [2],
        "patch_size": [14, 14],
        "img_size": [28, 28],
    }
    swin = architecture(tiny("swin"))
    assert (swin["class"], swin["depth"], swin["width"], swin["patch_size"]) == ("SwinTransformer", 4, [16, 32], [4, 4])
    assert architecture(tiny("deit_distilled"))["class"] == "VisionTransformerDistilled"


@every_family
def test_width_is_that_of_the_residual_stream(family):
    model = tiny(family)
    all_blocks = blocks(model)
    with torch.no_grad(), recorded_calls(all_blocks) as calls:
        model(images(model))
    assert [input_width(block) for block in all_blocks] == [args[0].shape[-1] for _, args, _, _ in calls]
    outputs = [y[0] if isinstance(y, tuple) else y for _, _, _, y in calls]
    assert [width(block) for block in all_blocks] == [y.shape[-1] for y in outputs]


@every_family
def test_patch_area_is_pixels_times_channels(family):
    model: Any = tiny(family)
    if "maxvit" in family:
        assert patch_area(model) == 3 * 2 * 2  # the stride of its stem
        return
    if family == "hybrid":  # a convolution of 8 x 8 behind a stem of 64 channels
        assert patch_area(model) == 64 * 8 * 8
        return
    embed = family_of(model).patch_embedding(model)
    size = 16 if family == "vitamin" else embed.patch_size if hasattr(embed, "patch_size") else embed.proj.kernel_size
    height, width = size if isinstance(size, tuple) else (size, size)
    frames = 2 if family == "tubelet" else 1
    assert patch_area(model) == 3 * frames * height * width


@every_family
@pytest.mark.parametrize("target", ["q", "k", "v", "proj", "fc1", "fc2"])
def test_linears_are_layers_that_every_forward_calls(family, target):
    model = tiny(family)
    found = [linear for block in blocks(model) for linear in linears(block, target)]
    assert all(isinstance(linear, nn.Linear) for linear in found)
    with torch.no_grad(), recorded_calls(found) as calls:
        model(images(model))
    assert [call[0] for call in calls] == found


@every_family
def test_making_qkv_callable_keeps_the_outputs_and_is_undone(family):
    model = tiny(family)
    x = images(model)
    expected = model(x)
    for block in blocks(model):
        linears(block, "q")
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    for module in model.modules():
        ungraft(module)
    assert torch.equal(model(x), expected)


@every_family
def test_what_is_said_to_be_felt_by_rounding_only_is(family):
    model = tiny(family)
    x = images(model)
    expected = model(x)
    endings = WITH_BLOCKS[family].felt_by_rounding
    named = {name: p for name, p in model.named_parameters() if name.endswith(endings)}
    assert all(any(name.endswith(ending) for name in named) for ending in endings)
    with torch.no_grad():
        for parameter in named.values():
            parameter.add_(1)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_swiglu_has_two_first_layers():
    (block, *_) = blocks(tiny("eva02_base"))
    assert [linear.out_features for linear in linears(block, "fc1")] == [64, 64]


def test_qkv_names_all_three_layers_where_the_projections_are_separate():
    (block, *_) = blocks(tiny("rope_gqa"))
    assert linears(block, "qkv") == [block.attn.q_proj, block.attn.k_proj, block.attn.v_proj]


def test_an_mlp_of_unknown_class_is_refused_by_name():
    (block, *_) = blocks(tiny("vit"))
    block.mlp = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(ValueError, match="cannot find fc1 in an MLP of class Sequential"):
        linears(block, "fc1")


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_biases_beside_a_fused_layer_are_the_blocks_own_and_those_of_keys_are_zero(family):
    block = blocks(tiny(family))[0]
    attn = branches(block, "attn")[0].layer
    beside: Any = family_of_block(block).separate_bias(attn)
    biases = separate_biases(block)
    if family not in BYPASSED:
        assert biases == {}
        return
    assert list(biases) == ["q", "k", "v"]
    assert not biases["k"].any()
    assert torch.equal(torch.cat(list(biases.values())), beside)
    with torch.no_grad():
        biases["v"].zero_()
    assert not attn.v_bias.any()


@pytest.mark.parametrize("kind", ["ParallelScalingBlock", "DiffParallelScalingBlock"])
@pytest.mark.parametrize(
    "method", [vp.LinearProbe(), vp.BitFit(), vp.NormTuning(), vp.SSF(), vp.LoRA(rank=2, targets=("all-linear",))]
)
def test_on_blocks_that_cannot_be_split_methods_that_need_none_work(kind, method):
    make = partial(timm.create_model, "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2)
    model = make(block_fn=getattr(vision_transformer, kind)).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    vp.attach(model, method)
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for _, parameter in vp.tuned_parameters(model))
    vp.detach(model)
    assert torch.equal(model(x), expected)
