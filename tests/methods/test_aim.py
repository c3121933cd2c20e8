"""AIM's equations written out, attention over time included; the official block; counts, start, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.block_inputs import recorded_calls
from support.families import randomise_tuned, tiny
from support.frame_wise_models import BACKBONES, T, clips, frame_wise
from support.golden_block import golden_block
from timm.layers import DropPath
from torch import Tensor

import vision_peft as vp
from vision_peft.methods.aim import hidden_channels
from vision_peft.tuning.blocks import attn_half, blocks, mlp_half


def adapter(A: Any, z: Tensor) -> Tensor:
    return F.gelu(z @ A.down_proj.weight.T + A.down_proj.bias) @ A.up_proj.weight.T + A.up_proj.bias


def attention(attn: Any, z: Tensor) -> Tensor:
    """Softmax attention of one sequence (N D), without positions."""
    N, D = z.shape
    bias = 0 if attn.qkv.bias is None else attn.qkv.bias
    q, k, v = (z @ attn.qkv.weight.T + bias).reshape(N, 3, attn.num_heads, -1).permute(1, 2, 0, 3)
    y = (q @ k.transpose(-1, -2) / (D // attn.num_heads) ** 0.5).softmax(-1) @ v
    return y.transpose(0, 1).reshape(N, D) @ attn.proj.weight.T + attn.proj.bias


def scale_of(block: Any) -> Any:
    """LayerScale of the block's attention."""
    if getattr(block, "gamma_1", None) is not None:
        return block.gamma_1
    return getattr(getattr(block, "ls1", None), "gamma", 1.0)


@pytest.mark.parametrize("temporal", [1, 2])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_block_computes_the_equations(name, temporal):
    model = frame_wise(name, **BACKBONES[name])
    vp.attach(model, vp.AIM(temporal=temporal, scale=0.7))
    randomise_tuned(model)
    plain = frame_wise(name, **BACKBONES[name])
    vp.restore_last_block(model)
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model(clips(model))
        for (block, (x,), kwargs, y), own in zip(calls, blocks(plain), strict=True):
            A = block.aim
            n = own.norm1(x).unflatten(0, (-1, T))
            if temporal == 2:
                n = n + adapter(A["temporal_in"], n)
            over_time = torch.empty_like(n)
            for clip in range(n.shape[0]):
                for token in range(n.shape[2]):
                    over_time[clip, :, token] = scale_of(own) * attention(own.attn, n[clip, :, token])
            x = x + adapter(A["temporal"], over_time).flatten(0, 1)
            spatial = attn_half(own, x, **kwargs) - x
            x = x + spatial + adapter(block.drop_path1.aim_spatial, spatial)
            expected = mlp_half(own, x) + 0.7 * adapter(A["mlp"], own.norm2(x))
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_a_block_is_that_of_the_official_code(shared):
    file = golden_block(shared / "golden" / "aim_clip_block.safetensors")
    vp.attach(file.model, vp.AIM(temporal=2, scale=1.0))
    block: Any = file.model.blocks[0]
    file.model.norm_pre.temporal_embed.requires_grad_(False)
    modules = {
        "T_Adapter": block.aim["temporal"],
        "T_Adapter_in": block.aim["temporal_in"],
        "S_Adapter": block.drop_path1.aim_spatial,
        "MLP_Adapter": block.aim["mlp"],
    }
    names = {"D_fc1": "down_proj", "D_fc2": "up_proj"}
    tuned = {}
    for official in file.gradients:
        module, layer, kind = official.split(".")
        tuned[official] = modules[module].get_parameter(f"{names[layer]}.{kind}")
    file.check(tuned, lambda x: x.transpose(0, 1), lambda y: y.transpose(0, 1))  # tokens first there


@pytest.mark.parametrize(
    ("method", "frames", "figure"),
    [
        (vp.AIM(), 8, 10_659_072),
        (vp.AIM(), 32, 10_677_504),
        (vp.AIM.as_published("ssv2"), 8, 14_209_536),
        (vp.AIM.as_published("ssv2"), 32, 14_227_968),
    ],
    ids=repr,
)
def test_counts_are_the_published_ones(method, frames, figure):
    with torch.device("meta"):
        model = vp.create_backbone("vit_base_patch16_clip_224", num_frames=frames)
    D = 768
    one = 2 * D * D // 4 + D // 4 + D
    counts = vp.count_parameters(vp.attach(model, method))
    assert counts.trained == counts.stored == figure == 12 * (2 + method.temporal) * one + 2 * D + frames * D


def test_the_temporal_embedding_joins_every_token_before_the_pre_norm():
    model = frame_wise("vit_base_patch16_clip_224")
    vp.attach(model, vp.AIM())
    embedding = torch.randn(1, T, 32)
    with torch.no_grad(), recorded_calls([model.pos_drop, model.norm_pre]) as calls:
        model.norm_pre.temporal_embed.copy_(embedding)
        model(clips(model))
        (_, _, _, tokens), (norm, _, _, y) = calls
        expected = tokens + embedding.repeat(2, 1, 1).flatten(0, 1).unsqueeze(1)
        torch.testing.assert_close(y, F.layer_norm(expected, (32,), norm.weight, norm.bias, norm.eps))


def test_the_final_norm_trains_wherever_it_is():
    for pool, name in [("token", "norm"), ("avg", "fc_norm")]:
        model = vp.attach(frame_wise(global_pool=pool), vp.AIM())
        trained = {n for n, _ in vp.tuned_parameters(model) if not n.startswith(("blocks.", "head."))}
        assert trained == {"norm_pre.temporal_embed", f"{name}.weight", f"{name}.bias"}


def test_the_order_of_frames_matters_once_the_embedding_is_trained():
    model = frame_wise()
    vp.attach(model, vp.AIM())
    x = clips(model)
    with torch.no_grad():
        assert torch.allclose(model(x), model(x.flip(2)), atol=1e-5)
        randomise_tuned(model)
        assert (model(x) - model(x.flip(2))).abs().max() > 1e-3


def test_drop_path_drops_the_temporal_and_mlp_adapters_and_not_the_spatial_one():
    model = frame_wise()
    block: Any = blocks(model)[0]
    block.drop_path1, block.drop_path2 = DropPath(1 - 1e-9), DropPath(1 - 1e-9)  # drops whatever passes
    vp.attach(model, vp.AIM())
    randomise_tuned(model)
    vp.train_mode(model, "train")
    x = torch.randn(2 * T, 17, 32)
    with torch.no_grad():
        y = block.attn(block.norm1(x))
        torch.testing.assert_close(block(x), x + adapter(block.drop_path1.aim_spatial, y))


@pytest.mark.parametrize(
    "methods", [(vp.AIM(), vp.VPT(tokens=3)), (vp.LoRA(rank=2), vp.AIM()), (vp.AIM(), vp.Houlsby())]
)
def test_it_stacks_with_methods_inside_attention_and_behind_it(methods):
    model = frame_wise()
    for method in methods:
        vp.attach(model, method)
    randomise_tuned(model)
    swapped = frame_wise()
    for method in methods[::-1]:
        vp.attach(swapped, method)
    vp.load_tuned(swapped, vp.tuned_state_dict(model))
    y = model(clips(model))
    assert swapped(clips(swapped)).shape == y.shape
    y.square().sum().backward()
    assert [n for n, p in vp.tuned_parameters(model) if p.grad is None or not p.grad.abs().max() > 0] == []


def test_models_of_images_and_of_tubelets_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"sees single images.*create_backbone\(\.\.\., num_frames=8\)"):
        vp.attach(tiny("vit"), vp.AIM())
    with pytest.raises(ValueError, match=r"one sequence of tubelets.*num_frames=4\) without tubelet_size"):
        vp.attach(frame_wise(num_frames=4, tubelet_size=2), vp.AIM())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 0.0}, "ratio must be a number above 0"),
        ({"temporal": 3}, "temporal must be one of 1, 2; got 3"),
        ({"scale": -1.0}, "scale must be a number above 0"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        vp.AIM(**fields)


def test_a_ratio_without_a_hidden_channel_is_refused():
    with pytest.raises(ValueError, match="leaves no hidden channel of the width 32"):
        vp.attach(frame_wise(), vp.AIM(ratio=0.01))


def test_a_ratio_read_off_a_file_gives_its_hidden_channels_back():
    assert all(hidden_channels(768, h / 768) == h for h in range(1, 769))
    assert hidden_channels(30, 0.25) == 7  # int() in the official code


def test_the_published_settings():
    assert vp.AIM.as_published() == vp.AIM(ratio=0.25, temporal=1, scale=0.5)
    assert vp.AIM.as_published("ssv2") == vp.AIM(ratio=0.25, temporal=2, scale=1.0)
    with pytest.raises(ValueError, match="config must be one of 'kinetics', 'ssv2'"):
        vp.AIM.as_published("hmdb51")
