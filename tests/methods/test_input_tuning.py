"""Input tuning against its equation, written out, on images of several numbers of channels."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from support.families import tiny
from support.vit_base import count_on_vit_base

import vision_peft as vp


def make(channels: int = 5) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", **sizes, in_chans=channels, num_classes=3).eval()


def test_a_mixer_shows_the_model_mixed_channels_and_folds_into_its_weights() -> None:
    model, images = make(), torch.randn(2, 5, 32, 32)
    plain = make()
    vp.attach(model, vp.InputTuning())
    torch.testing.assert_close(model(images), plain(images))
    mix = torch.randn(5, 5)
    model.get_parameter("patch_embed.proj.band_mix").data.copy_(mix)
    wanted = plain(torch.einsum("oi,bihw->bohw", mix, images))
    torch.testing.assert_close(model(images), wanted)
    torch.testing.assert_close(vp.merge(model)(images), wanted)
    weight = plain.patch_embed.proj.weight
    torch.testing.assert_close(model.patch_embed.proj.weight, F.linear(weight.movedim(1, -1), mix.T).movedim(-1, 1))


@pytest.mark.parametrize("part", ["mixer", "patch_embed"])
def test_only_the_input_learns_is_saved_and_detached(part: str, tmp_path: Any) -> None:
    model, images = make(), torch.randn(4, 5, 32, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    vp.attach(model, vp.InputTuning(part=part))
    names = {name for name, _ in vp.tuned_parameters(model)} - {"head.weight", "head.bias"}
    proj = "patch_embed.proj"
    assert names == ({f"{proj}.band_mix"} if part == "mixer" else {f"{proj}.weight", f"{proj}.bias"})
    model(images).square().sum().backward()
    for _, parameter in vp.tuned_parameters(model):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
        parameter.data -= 0.01 * parameter.grad
    told = model(images)
    vp.save_adapter(model, tmp_path)
    assert torch.equal(vp.load_adapter(make(), tmp_path)(images), told)
    vp.detach(model)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved <= {"head.weight", "head.bias", *(names if part == "patch_embed" else ())}
    assert model.state_dict().keys() == before.keys()


def test_what_trains_is_counted() -> None:
    assert count_on_vit_base(vp.InputTuning()).trained == 3 * 3
    assert count_on_vit_base(vp.InputTuning(part="patch_embed")).trained == 768 * 3 * 16 * 16 + 768


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="part must be one of 'mixer', 'patch_embed'; got 'stem'"):
        vp.InputTuning(part="stem")
    model = timm.create_model("naflexvit_base_patch16_gap", num_classes=3, depth=1, embed_dim=24, num_heads=2)
    with pytest.raises(ValueError, match="has no convolution that reads all channels of an image"):
        vp.attach(model, vp.InputTuning())
    hybrid = vp.attach(tiny("hybrid"), vp.InputTuning())
    with pytest.raises(ValueError, match="cannot merge InputTuning: StdConv2dSame makes another weight out of its own"):
        vp.merge(hybrid)
