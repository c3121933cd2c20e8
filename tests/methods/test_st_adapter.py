"""ST-Adapter's equation written out frame by frame, the official block, counts, the dead adapter, refusals."""

import re
from typing import Any

import pytest
import torch
from support.block_inputs import recorded_calls
from support.families import randomise_tuned, tiny
from support.frame_wise_models import BACKBONES, T, clips, frame_wise
from support.golden_block import golden_block
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import attn_half, blocks, mlp_half


def adapted(adapter: Any, x: Tensor, rows: int, columns: int, kernel: tuple[int, int, int]) -> Tensor:
    """x + A(x) of tokens (B*T N D): every output pixel as a sum over its neighbours in time, rows and columns."""
    x = x.unflatten(0, (-1, T))
    prefix = x.shape[2] - rows * columns
    z = (x[:, :, prefix:] @ adapter.down_proj.weight.T + adapter.down_proj.bias).unflatten(2, (rows, columns))
    out = torch.zeros_like(z) + adapter.conv.bias
    reach = [range(-(k // 2), k // 2 + 1) for k in kernel]
    places = [(t, r, c) for t in range(T) for r in range(rows) for c in range(columns)]
    for t, r, c in places:
        for dt, dr, dc in [(a, b, d) for a in reach[0] for b in reach[1] for d in reach[2]]:
            if 0 <= t + dt < T and 0 <= r + dr < rows and 0 <= c + dc < columns:
                tap = adapter.conv.weight[:, 0, dt + reach[0].stop - 1, dr + reach[1].stop - 1, dc + reach[2].stop - 1]
                out[:, t, r, c] += tap * z[:, t + dt, r + dr, c + dc]
    y = x.clone()
    y[:, :, prefix:] += out.flatten(2, 3) @ adapter.up_proj.weight.T + adapter.up_proj.bias
    return y.flatten(0, 1)


@pytest.mark.parametrize("kernel", [(3, 1, 1), (1, 3, 1), (3, 3, 3)])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_block_computes_the_equation(name, kernel):
    model = frame_wise(name, **BACKBONES[name])
    vp.attach(model, vp.STAdapter.as_published(width=6, kernel=kernel, sites=("attn", "mlp")))
    randomise_tuned(model)
    side = int(model.patch_embed.num_patches**0.5)
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model(clips(model))
        assert len(calls) == 2
        for block, (x,), kwargs, y in calls:
            before = adapted(block.st_adapter["attn"], x, side, side, kernel)
            assert (before - x).abs().max() > 0.01
            between = adapted(block.st_adapter["mlp"], attn_half(block, before, **kwargs), side, side, kernel)
            torch.testing.assert_close(y, mlp_half(block, between), rtol=1e-5, atol=5e-5)


def test_a_block_is_that_of_the_official_code(shared):
    file = golden_block(shared / "golden" / "st_adapter_block.safetensors")
    vp.attach(file.model, vp.STAdapter.as_published(width=12, sites=("attn", "mlp")))
    names = {"fc1": "down_proj", "conv": "conv", "fc2": "up_proj"}
    block: Any = file.model.blocks[0]
    tuned = {}
    for official in file.gradients:
        site, layer, kind = re.fullmatch(r"adapter_pre_(\w+)\.(\w+)\.(\w+)", official).groups()  # type: ignore[union-attr]
        tuned[official] = block.st_adapter[site].get_parameter(f"{names[layer]}.{kind}")
    file.check(tuned, lambda x: x, lambda y: y)


@pytest.mark.parametrize(
    ("method", "figure"),
    [
        (vp.STAdapter.as_published(), 7_110_144),
        (vp.STAdapter.as_published(sites=("attn", "mlp")), 14_220_288),
        (vp.STAdapter(), 7_110_144 - 592_512),
        (vp.STAdapter(sites=("attn", "mlp")), 14_220_288 - 592_512),
        (vp.STAdapter(kernel=(3, 3, 3), sites=("attn",)), 12 * (592_512 + 24 * 384)),
        (vp.STAdapter(blocks="last 4"), 3 * 592_512),
    ],
    ids=repr,
)
def test_counts_are_the_published_ones_less_the_dead_adapter(method, figure):
    with torch.device("meta"):
        model = vp.create_backbone("vit_base_patch16_clip_224", num_frames=8)
    D, c, k = 768, method.width, method.kernel[0] * method.kernel[1] * method.kernel[2]
    adapter = (D + 1) * c + (k + 1) * c + (c + 1) * D
    counts = vp.count_parameters(vp.attach(model, method))
    assert counts.trained == counts.stored == figure
    assert figure % adapter == 0


def test_the_adapter_before_the_last_mlp_is_left_out_where_only_the_class_token_is_read():
    for pool, published, last in [
        ("token", False, ["attn"]),
        ("token", True, ["attn", "mlp"]),
        ("avg", False, ["attn", "mlp"]),
    ]:
        kind = vp.STAdapter.as_published if published else vp.STAdapter
        model = vp.attach(frame_wise(global_pool=pool), kind(width=4, sites=("attn", "mlp")))
        assert [list(block.st_adapter) for block in blocks(model)] == [["attn", "mlp"], last]
    model = vp.attach(frame_wise(), vp.STAdapter.as_published(width=4))
    randomise_tuned(model)
    model(clips(model)).square().sum().backward()
    silent = {n for n, p in vp.tuned_parameters(model) if not p.grad.abs().max() > 0}  # type: ignore[union-attr]
    assert silent == {n for n, _ in vp.tuned_parameters(model) if n.startswith("blocks.1.st_adapter.mlp.")}


def test_the_official_readout_norms_the_mean_of_the_frames_and_is_told_apart_by_an_adapter_folder(tmp_path):
    for pool in ("token", "avg"):
        model = frame_wise(global_pool=pool, mean_first=True)
        other = frame_wise(global_pool=pool)
        assert list(other.state_dict()) == list(model.state_dict())
        other.load_state_dict(model.state_dict())
        x = clips(model)
        with torch.no_grad(), recorded_calls([blocks(model)[-1]]) as calls:
            y = model(x)
            tokens = calls[0][3].unflatten(0, (-1, T)).mean(1)
            features = tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1)
            norm = model.norm if pool == "token" else model.fc_norm
            expected = torch.nn.functional.layer_norm(features, (32,), norm.weight, norm.bias, norm.eps)
            torch.testing.assert_close(y, model.head(expected), rtol=1e-5, atol=1e-5)
            assert (other(x) - y).abs().max() > 1e-3
    vp.save_adapter(vp.attach(model, vp.STAdapter(width=4)), tmp_path)
    vp.load_adapter(frame_wise(global_pool="avg", mean_first=True), tmp_path)
    with pytest.raises(ValueError, match="mean_first"):
        vp.load_adapter(other, tmp_path, allow_backbone_mismatch=True)


def test_a_mean_of_frames_needs_frames():
    arguments: list[dict[str, Any]] = [{"num_frames": 4, "tubelet_size": 2}, {}]
    for frames in arguments:
        with pytest.raises(ValueError, match="mean_first is for frame-wise models"):
            vp.create_backbone("vit_tiny_patch16_224", mean_first=True, **frames)


def test_blocks_are_counted_from_the_last():
    model = vp.attach(frame_wise(depth=3), vp.STAdapter(width=4, sites=("attn",), blocks="last 2"))
    assert ["st_adapter" in dict(block.named_children()) for block in blocks(model)] == [False, True, True]


def test_frames_see_each_other_through_patches_only_and_class_tokens_pass():
    model = frame_wise()
    vp.attach(model, vp.STAdapter(width=4, sites=("attn",)))
    randomise_tuned(model)
    x = clips(model)
    with torch.no_grad():
        assert (model(x) - model(x.flip(2))).abs().max() > 1e-4
        tokens = torch.randn(2 * T, 17, 32)
        y = blocks(model)[0].st_adapter["attn"](tokens)
    assert not y[:, 0].any()
    assert y[:, 1:].any()


@pytest.mark.parametrize("first", [True, False])
def test_prompts_that_join_the_sequence_leave_the_patches_in_place(first):
    methods = [vp.STAdapter(width=4), vp.VPT(tokens=3, deep=False)]
    model = frame_wise()
    for method in methods if first else methods[::-1]:
        vp.attach(model, method)
    randomise_tuned(model)
    with torch.no_grad(), recorded_calls([blocks(model)[0].st_adapter["mlp"]]) as calls:
        model(clips(model))
        adapter, (x,), _, y = calls[0]
    assert x.shape[1] == 1 + 3 + 16
    torch.testing.assert_close(x + y, adapted(adapter, x, 4, 4, (3, 1, 1)).detach(), rtol=1e-5, atol=5e-5)


def test_one_clip_of_one_frame_works():
    model = vp.attach(frame_wise(num_frames=1), vp.STAdapter(width=4))  # the official code edits its input in place
    randomise_tuned(model)
    model(clips(model, batch=1)).sum().backward()


def test_models_of_images_and_of_tubelets_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"sees single images.*create_backbone\(\.\.\., num_frames=8\)"):
        vp.attach(tiny("vit"), vp.STAdapter())
    with pytest.raises(ValueError, match=r"one sequence of tubelets.*num_frames=4\) without tubelet_size"):
        vp.attach(frame_wise(num_frames=4, tubelet_size=2), vp.STAdapter())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width must be a number above 0"),
        ({"kernel": (3, 1)}, r"three odd numbers \(frames, rows, columns\); got \(3, 1\)"),
        ({"kernel": (2, 1, 1)}, "three odd numbers"),
        ({"kernel": (3, -1, 1)}, "three odd numbers"),
        ({"sites": ("norm",)}, "sites must be one of 'attn', 'mlp'"),
        ({"sites": ()}, "sites must be distinct and at least one"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        vp.STAdapter(**fields)


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="but this backbone has 2 blocks"):
        vp.attach(frame_wise(), vp.STAdapter(blocks="last 3"))
    with pytest.raises(ValueError, match="cannot learn where only the class token is read"):
        vp.attach(frame_wise(), vp.STAdapter(blocks="last 1"))
    vp.attach(frame_wise(global_pool="avg"), vp.STAdapter(width=4, blocks="last 1"))


def test_a_config_may_hand_over_lists():
    assert vp.STAdapter(kernel=[3, 1, 1], sites=["mlp"]) == vp.STAdapter()  # type: ignore[arg-type]
