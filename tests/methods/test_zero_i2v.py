"""ZeroI2V's equations written out, the shift value by value, what merge leaves; counts, refusals."""

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.block_inputs import recorded_calls
from support.families import attach, randomise_tuned, tiny
from support.frame_wise_models import BACKBONES, T, clips, frame_wise
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning import record
from vision_peft.tuning.attach import attach_for_loading
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.frame_attention import shift_channels

D = 768


def adapter(A: Any, z: Tensor, s: float) -> Tensor:
    down = z @ A.down_proj.weight.T + A.down_proj.bias
    return z + s * (down @ A.up_proj.weight.T + A.up_proj.bias)


def shifted(z: Tensor, groups: list[tuple[int, int]]) -> Tensor:
    """Keys or values (B T N C) with every channel of the frame that it comes from."""
    out, frames, start = z.clone(), z.shape[1], 0
    for channels, step in groups:
        for t in range(frames):
            source = t - step
            if 0 <= source < frames:
                out[:, t, :, start : start + channels] = z[:, source, :, start : start + channels]
        start += channels
    return out


def attention(attn: Any, n: Tensor, groups: list[tuple[int, int]]) -> Tensor:
    """Softmax attention of every frame (B T N D), with keys and values of others."""
    q, k, v = (n @ attn.qkv.weight.T + attn.qkv.bias).chunk(3, -1)
    parts = [t.unflatten(-1, (attn.num_heads, -1)).transpose(2, 3) for t in (q, shifted(k, groups), shifted(v, groups))]
    y = (parts[0] @ parts[1].transpose(-1, -2) * attn.scale).softmax(-1) @ parts[2]
    return y.transpose(2, 3).flatten(3) @ attn.proj.weight.T + attn.proj.bias


@pytest.mark.parametrize(
    ("fields", "groups"),
    [
        ({"shift_div": 8}, [(4, 1), (4, -1)]),
        ({"shift_div": 5, "adapters": 3}, [(6, 1), (6, -1)]),
        ({"shift_div": 8, "long_shift_div": 6}, [(4, 1), (4, -1), (5, 2), (5, -2)]),
        ({"shift_div": 8, "long_shift_div": 6, "long_shift_right": False}, [(4, 1), (4, -1), (5, 2)]),
        ({"shift_div": 4, "adapters": 0}, [(8, 1), (8, -1)]),
    ],
)
def test_every_block_computes_the_equations(fields, groups):
    model = frame_wise(num_frames=4)
    method = vp.ZeroI2V(scale=0.7, **fields)
    plain = copy.deepcopy(model)
    vp.attach(model, method)
    randomise_tuned(model)
    vp.restore_last_block(model)
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model(clips(model))
        for (block, (x,), _, y), own in zip(calls, blocks(plain), strict=True):
            A: dict[str, Any] = {}
            for seat, module in {"T": block.norm1, "S": block.attn.proj, "M": block.norm2, "O": block.mlp.fc2}.items():
                A[seat] = getattr(module, "zero_i2v", None)
            assert [seat for seat in A if A[seat] is not None] == ["T", "S", "M", "O"][: method.adapters]

            def through(seat: str, z: Tensor, A: dict[str, Any] = A) -> Tensor:
                return z if A[seat] is None else adapter(A[seat], z, 0.7)

            n = through("T", own.norm1(x)).unflatten(0, (-1, 4))
            x = x + through("S", attention(own.attn, n, groups)).flatten(0, 1)
            hidden = F.gelu(through("M", own.norm2(x)) @ own.mlp.fc1.weight.T + own.mlp.fc1.bias)
            expected = x + through("O", hidden @ own.mlp.fc2.weight.T + own.mlp.fc2.bias)
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_the_first_and_the_last_frames_keep_their_own_channels():
    z = torch.arange(5.0).view(5, 1, 1).expand(5, 1, 6).contiguous()  # (B T) N C, its frame in every channel
    steps = vp.ZeroI2V(shift_div=6, long_shift_div=6).steps(6)
    out = shift_channels(z, 5, steps)[:, 0]
    assert out[:, 0].tolist() == [0, 0, 1, 2, 3]
    assert out[:, 1].tolist() == [1, 2, 3, 4, 4]
    assert out[:, 2].tolist() == [0, 1, 0, 1, 2]
    assert out[:, 3].tolist() == [2, 3, 4, 3, 4]
    assert out[:, 4].tolist() == out[:, 5].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(shift_channels(z, 1, steps), z)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_start_is_the_backbone_with_shifted_channels_and_still_clips_are_not_changed(name):
    model = frame_wise(name, **BACKBONES[name])
    x = clips(model)
    still = x[:, :, :1].expand_as(x)
    moving, standing = model(x), model(still)
    attach(model, vp.ZeroI2V(shift_div=4))
    torch.testing.assert_close(model(still), standing, rtol=1e-5, atol=1e-5)
    assert (model(x) - moving).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("method", "frames", "figure"),
    [
        (vp.ZeroI2V(), 8, 14_209_536),
        (vp.ZeroI2V(), 16, 14_215_680),
        (vp.ZeroI2V.as_published("ssv2"), 16, 14_215_680),
        (vp.ZeroI2V(adapters=3), 8, 10_659_072),
        (vp.ZeroI2V(adapters=0), 8, 7_680),
    ],
    ids=repr,
)
def test_counts_are_the_published_ones(method, frames, figure):
    with torch.device("meta"):
        model = vp.create_backbone("vit_base_patch16_clip_224", num_frames=frames)
    one = 2 * D * D // 4 + D // 4 + D
    counts = vp.count_parameters(vp.attach(model, method))
    assert counts.trained == counts.stored == figure == 12 * method.adapters * one + 2 * D + frames * D


def test_at_twelve_a_vit_b_shifts_its_first_two_heads():
    assert vp.ZeroI2V().steps(D) == [(64, 1), (64, -1)]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_merge_leaves_shift_and_temporal_embedding_which_load_beside_the_merged_weights(name, tmp_path):
    model = frame_wise(name)
    method = vp.ZeroI2V(shift_div=8)
    vp.attach(model, method)
    randomise_tuned(model)
    x = clips(model)
    expected = model(x)
    vp.merge(model)
    tuning = record.find(model)
    assert tuning is not None
    assert tuning.methods == [vp.ZeroI2V(shift_div=8, adapters=0)]
    names = {name for name, _ in vp.tuned_parameters(model)}
    assert names == {"norm_pre.temporal_embed", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    vp.save_adapter(model, tmp_path)
    backbone = {name: t for name, t in model.state_dict().items() if "temporal" not in name}
    fresh = frame_wise(name)
    fresh.load_state_dict(backbone)
    assert torch.equal(vp.load_adapter(fresh, tmp_path)(x), model(x))
    again = frame_wise(name)
    with pytest.raises(ValueError, match=r"fingerprint|other weights|another backbone"):
        vp.load_adapter(again, tmp_path)


def test_lora_on_the_same_layer_merges_in_front_of_the_shift_and_not_behind_it():
    for order in (1, -1):
        model = frame_wise()
        for method in [vp.LoRA(rank=2), vp.ZeroI2V(shift_div=4)][::order]:
            vp.attach(model, method)
        randomise_tuned(model)
        x = clips(model)
        expected = model(x)
        if order == 1:
            torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)
        else:
            with pytest.raises(ValueError, match="was attached behind ZeroI2V on the same layer: attach it first"):
                vp.merge(model)
            assert torch.equal(model(x), expected)


def test_prompts_are_the_same_in_every_frame():
    model = vp.attach(vp.attach(frame_wise(), vp.ZeroI2V(shift_div=4)), vp.VPT(tokens=2))
    randomise_tuned(model)
    assert model(clips(model)).isfinite().all()


def test_a_reversible_merge_is_taken_back_bit_for_bit():
    model = vp.attach(frame_wise(), vp.ZeroI2V(shift_div=4))
    randomise_tuned(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    vp.unmerge(vp.merge(model, reversible=True))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert record.find(model).methods == [vp.ZeroI2V(shift_div=4)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"shift_div": 40}, r"shift_div=40.* shift \[0, 0\] of 32 channels.*at least one each"),
        ({"shift_div": 1}, r"shift \[32, 32\] of 32 channels.*no more than there are"),
        ({"long_shift_div": 3, "shift_div": 4}, r"shift \[8, 8, 10, 10\] of 32 channels"),
        ({"ratio": 0.01}, "leaves no hidden channel of the width 32"),
    ],
)
def test_shifts_and_widths_that_do_not_fit_are_refused(fields, reason):
    model = frame_wise()
    with pytest.raises(ValueError, match=reason):
        vp.attach(model, vp.ZeroI2V(**fields))
    assert record.find(model) is None


def test_settings_out_of_range_are_refused():
    wrong: list[dict[str, Any]] = [
        {"shift_div": 0},
        {"long_shift_div": 0},
        {"adapters": 2},
        {"scale": 0},
        {"dropout": 1},
    ]
    for fields in wrong:
        with pytest.raises(ValueError, match=next(iter(fields))):
            vp.ZeroI2V(**fields)


def test_image_models_are_refused():
    with pytest.raises(ValueError, match="sees single images"):
        attach_for_loading(tiny("vit"), vp.ZeroI2V())


def test_frames_stay_in_their_clip():
    model = vp.attach(frame_wise(num_frames=T), vp.ZeroI2V(shift_div=4))
    randomise_tuned(model)
    x = clips(model)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-5, atol=1e-5)


def test_it_is_exported_for_any_number_of_clips_and_traces_into_a_program_without_python():
    model = attach(frame_wise(), vp.ZeroI2V(shift_div=4)).eval()
    randomise_tuned(model)
    two, three = clips(model), clips(model, 3)
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, (two,), dynamic_shapes={"args": batch}).module()
    torch.testing.assert_close(exported(three), model(three))
    torch.jit.save(torch.jit.trace(model, two), io.BytesIO())
