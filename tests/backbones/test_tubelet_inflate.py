"""Image models inflated to tubelets, against the image model on the frames of the clip."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.tiny_states import NAME, TINY, assert_holds
from support.tubelet_models import CLIP, SMALL, clip, image_model, inflated

from vision_peft.backbones import create_backbone, input_config
from vision_peft.backbones.tubelet import inflate


@pytest.mark.parametrize("how", ["average", "centre"])
@pytest.mark.parametrize("model_of", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}], ids=repr)
def test_one_time_step_that_stands_still_has_the_features_of_the_image(how: str, model_of: dict[str, Any]) -> None:
    image = clip(frames=1)
    model = inflated(how, frames=3, tubelet=3, **model_of)
    expected = image_model(**model_of)(image[:, :, 0])
    torch.testing.assert_close(model(image.expand(-1, -1, 3, -1, -1)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["average", "centre"])
def test_any_clip_that_stands_still_has_the_features_of_the_image_where_no_other_tokens_are(how: str) -> None:
    # With a class token this is not so: it would compete with four times as many patches for attention.
    model_of: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
    image = clip(frames=1)
    expected = image_model(**model_of)(image[:, :, 0])
    model = inflated(how, frames=8, tubelet=2, **model_of)
    torch.testing.assert_close(model(image.expand(-1, -1, 8, -1, -1)), expected, rtol=1e-5, atol=1e-5)


def test_the_average_sees_the_mean_of_a_tubelet_and_the_centre_one_frame() -> None:
    embed = image_model().patch_embed
    x = clip(frames=6)
    for how, frames in [("average", x.unflatten(2, (2, 3)).mean(3)), ("centre", x[:, :, [1, 4]])]:
        tokens = inflated(how, frames=6, tubelet=3).patch_embed(x)
        expected = torch.cat([embed(frames[:, :, step]) for step in range(2)], dim=1)
        torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_an_inflated_model_keeps_every_tensor_and_repeats_positions_over_time() -> None:
    arguments: dict[str, Any] = {"reg_tokens": 2, "num_classes": 5}
    state = image_model(**arguments).state_dict()
    model = inflated(frames=8, **arguments)
    assert_holds(model, state, but=("patch_embed.proj.weight", "pos_embed"))
    assert set(model.state_dict()) - set(state) == {"patch_embed.temporal_embed"}
    assert model.patch_embed.temporal_embed.shape == (1, 4, 16)
    assert not model.patch_embed.temporal_embed.any()
    prefix, patches = state["pos_embed"].split([3, 6], dim=1)
    assert torch.equal(model.pos_embed, torch.cat([prefix, *[patches] * 4], dim=1))


def test_order_is_told_by_the_temporal_embedding_alone() -> None:
    model = inflated()
    assert (model(clip()) - model(clip().flip(2))).abs().max() < 1e-5
    with torch.no_grad():
        model.patch_embed.temporal_embed.normal_()
    assert (model(clip()) - model(clip().flip(2))).abs().max() > 1e-2


def test_the_temporal_embedding_is_added_to_every_patch_of_its_time_step() -> None:
    model = inflated()
    before = model.patch_embed(clip())
    with torch.no_grad():
        model.patch_embed.temporal_embed.normal_()
    expected = model.patch_embed.temporal_embed.repeat_interleave(6, dim=1).expand(2, -1, -1)
    torch.testing.assert_close(model.patch_embed(clip()) - before, expected, rtol=1e-5, atol=1e-5)


def test_an_image_checkpoint_is_inflated_also_at_another_size(tmp_path: Path) -> None:
    torch.save(image_model(num_classes=5).state_dict(), tmp_path / "image.pth")
    arguments: dict[str, Any] = {**SMALL, "img_size": 32, "checkpoint": tmp_path / "image.pth", "num_classes": 3}
    with pytest.raises(ValueError, match="does not fit"):  # timm takes the positions of a file for a square
        create_backbone(NAME, **arguments)
    torch.save(image_model(num_classes=5, img_size=24).state_dict(), tmp_path / "image.pth")
    at_size: Any = create_backbone(NAME, **arguments)
    model: Any = create_backbone(NAME, **arguments, **CLIP, inflate="centre")
    prefix, patches = at_size.pos_embed.split([1, 16], dim=1)
    assert torch.equal(model.pos_embed, torch.cat([prefix, patches, patches], dim=1))
    assert torch.equal(model.patch_embed.proj.weight[:, :, 1], at_size.patch_embed.proj.weight)
    assert not model.patch_embed.proj.weight[:, :, 0].any()
    assert model(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 3)


def test_clips_positions_with_class_token_free_models_without_any(tmp_path: Path) -> None:
    model = inflated(pos_embed="none")
    assert model.pos_embed is None
    assert model(clip()).shape == (2, 16)


def test_the_offline_weights_are_inflated(built: Path, cache: Path) -> None:
    cache.mkdir()
    shutil.copy(built, cache)
    arguments: dict[str, Any] = {"pretrained": True, "img_size": 28, "num_classes": 8}
    image: Any = create_backbone("dinov2_small_pypi", **arguments)
    model: Any = create_backbone("dinov2_small_pypi", **arguments, num_frames=2, tubelet_size=2)
    x = torch.randn(1, 3, 1, 28, 28)
    still = x.expand(-1, -1, 2, -1, -1)
    expected = image.forward_features(x[:, :, 0])
    torch.testing.assert_close(model.eval().forward_features(still), expected, rtol=1e-3, atol=1e-3)
    assert input_config(model)["num_frames"] == 2


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.bfloat16), ("meta", torch.float32)])
def test_inflation_keeps_device_and_precision(device: str, dtype: torch.dtype) -> None:
    model: Any = inflate(timm.create_model(NAME, **TINY).to(device, dtype), 4, 2)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {(device, dtype)}
