"""AdaptFormer's equation written out, with LayerScale and drop-path in the block, for every input and form."""

from typing import Any

import pytest
import torch
from support.block_inputs import recorded_calls
from support.families import FAMILIES, images, randomise_tuned, tiny
from timm.layers import DropPath
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning.blocks import attn_half, block_end, blocks

FORMS = [
    {"input": "raw"},
    {"input": "block_norm"},
    {"input": "own_norm"},
    {"input": "raw", "form": "sequential"},
    {"input": "own_norm", "form": "sequential"},
    {"input": "raw", "scale": "learnable"},
    {"input": "raw", "scale": 2.5},
]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))


def tuned(family: str, **fields: Any) -> nn.Module:
    model = vp.attach(tiny(family), vp.AdaptFormer(**{"bottleneck": 16, "dropout": 0.0, **fields}))
    randomise_tuned(model)
    return model


def branch(block: Any, x: Tensor, method: vp.AdaptFormer) -> Tensor:  # pyright: ignore[reportAttributeAccessIssue]
    """s · W_up ReLU(W_down norm(x) + b_down) + s · b_up."""
    mlp = block.adaptmlp if method.form == "parallel" else block.drop_path2.adaptmlp
    if method.input == "block_norm" and not has_norm_behind(block):
        x = block.norm2(x)
    if method.input == "own_norm":
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt() * mlp.norm.weight + mlp.norm.bias
    hidden = (x @ mlp.down_proj.weight.T + mlp.down_proj.bias).clamp(min=0)
    s = mlp.scale if method.scale == "learnable" else method.scale
    return s * (hidden @ mlp.up_proj.weight.T + mlp.up_proj.bias)


def has_norm_behind(block: Any) -> bool:
    """Whether the block reads x as it is and norms what the MLP puts out: Swin v2, which attends by cosines."""
    return hasattr(block.attn, "logit_scale")


def expected_output(block: Any, x: Tensor, method: Any, path: nn.Module, **kwargs: Any) -> Tensor:
    """The block by timm's parts; ``path`` stands for its drop_path2."""
    x = attn_half(block, x, **kwargs)
    y = block.norm2(block.mlp(x)) if has_norm_behind(block) else block.mlp(block.norm2(x))
    if hasattr(block, "ls2"):
        y = block.ls2(y)
    if getattr(block, "gamma_2", None) is not None:
        y = block.gamma_2 * y
    y = path(y)
    return block_end(block, x + y + branch(block, y if method.form == "sequential" else x, method))


@every_form
@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_computes_the_equation(family, form):
    model = tuned(family, **form)
    vp.restore_last_block(model)
    method = vp.AdaptFormer(**form)
    all_blocks = blocks(model)
    with torch.no_grad(), recorded_calls(all_blocks) as calls:
        model(images(model))
    assert len(calls) == len(all_blocks)
    for block, (x,), kwargs, y in calls:
        with torch.no_grad():
            expected = expected_output(block, x, method, nn.Identity(), **kwargs)
            assert branch(block, x, method).abs().max() > 0.01, "the branch does nothing: this test tests nothing"
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=5e-5)


@every_form
@pytest.mark.parametrize("family", ["deit3", "dinov2_reg4", "beit", "eva02_tiny"])
def test_drop_path_drops_the_mlp_and_spares_a_parallel_branch(family, form):
    model = tiny(family)
    for block in blocks(model):
        block.drop_path2 = DropPath(0.5)
    method = vp.AdaptFormer(**{"bottleneck": 16, "dropout": 0.0, **form})
    vp.attach(model, method)
    randomise_tuned(model)
    vp.train_mode(model, "train")
    block, path = blocks(model)[0], DropPath(0.5).train()
    with torch.no_grad(), recorded_calls([block]) as calls:
        model(images(model, batch=8))
    _, (x,), kwargs, _ = calls[0]
    with torch.no_grad():
        torch.manual_seed(0)
        y = block(x, **kwargs)
        torch.manual_seed(0)
        expected = expected_output(block, x, method, path, **kwargs)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=5e-5)
        at_rest = expected_output(block, x, method, nn.Identity(), **kwargs)
    changed = (y - at_rest).flatten(1).abs().amax(1)
    assert changed.max() > 1e-3, "drop path does nothing: this test tests nothing"


def test_dropout_sits_between_the_two_projections():
    model = tuned("vit", dropout=0.5)
    vp.train_mode(model)
    mlp: Any = model.get_submodule("blocks.0.adaptmlp")
    x = torch.randn(2, 4, 32)
    torch.manual_seed(0)
    y = mlp(x)
    torch.manual_seed(0)
    hidden = nn.functional.dropout(torch.relu(mlp.down_proj(x)), 0.5)
    torch.testing.assert_close(y, 0.1 * mlp.up_proj(hidden))


def test_a_learned_scale_is_one_number_per_block_that_starts_at_one_and_learns():
    model = tuned("vit", scale="learnable")
    fresh = vp.attach(tiny("vit"), vp.AdaptFormer(scale="learnable"))
    scales = [parameter for name, parameter in vp.tuned_parameters(fresh) if name.endswith(".scale")]
    assert [scale.tolist() for scale in scales] == [[1.0], [1.0]]
    model(images(model)).square().sum().backward()
    for name, parameter in vp.tuned_parameters(model):
        if name.endswith(".scale"):
            assert parameter.grad is not None
            assert parameter.grad.abs() > 0


def test_lora_init_starts_from_zero_and_trunc_normal_does_not():
    model = vp.attach(tiny("vit"), vp.AdaptFormer())
    mlp: Any = model.get_submodule("blocks.0.adaptmlp")
    assert mlp.up_proj.weight.abs().max() == 0
    assert mlp.down_proj.weight.abs().max() > 0
    assert mlp.down_proj.bias.abs().max() == mlp.up_proj.bias.abs().max() == 0
    torch.manual_seed(0)
    model = vp.attach(tiny("vit"), vp.AdaptFormer(bottleneck=512, init="trunc_normal"))
    mlp = model.get_submodule("blocks.0.adaptmlp")
    assert abs(mlp.up_proj.weight.std().item() - 0.02) < 5e-4
    assert abs(mlp.down_proj.weight.std().item() - 0.02) < 5e-4


def test_presets_are_the_released_code_and_the_paper():
    assert vp.AdaptFormer.as_published() == vp.AdaptFormer()
    video = vp.AdaptFormer.as_published(video=True, bottleneck=8)
    assert video == vp.AdaptFormer(bottleneck=8, dropout=0.0, init="trunc_normal")
    assert vp.AdaptFormer.as_in_paper(bottleneck=8) == vp.AdaptFormer(bottleneck=8, input="block_norm")
    assert vp.AdaptFormer.as_published(video=True, dropout=0.2).dropout == 0.2


def test_the_method_says_whether_it_starts_as_identity():
    assert vp.AdaptFormer().starts_as_identity
    assert not vp.AdaptFormer(init="trunc_normal").starts_as_identity


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bottleneck": 0}, "bottleneck must"),
        ({"bottleneck": True}, "bottleneck must"),
        ({"dropout": 1}, "dropout must"),
        ({"input": "norm"}, "input must be one of 'raw', 'block_norm', 'own_norm'; got 'norm'"),
        ({"form": "serial"}, "form must be one of 'parallel', 'sequential'"),
        ({"init": "zeros"}, "init must be one of"),
        ({"scale": "learned"}, "scale must be one of 'learnable'"),
        ({"form": "sequential", "input": "block_norm"}, 'use input="raw" or "own_norm"'),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.AdaptFormer(**fields)
