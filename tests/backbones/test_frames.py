"""Image models on clips, frame by frame, against the image model run on every frame by hand."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.tiny_states import NAME, TINY, assert_holds, random_state
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.backbones import create_backbone, input_config
from vision_peft.backbones.frames import FrameEmbed, MeanOverTime, frame_wise

_SMALL: dict[str, Any] = {**TINY, "num_classes": 3}
MODELS: dict[str, partial[Any]] = {
    "vit": partial(timm.create_model, NAME, img_size=(16, 24), patch_size=8, **_SMALL),
    "vit_avg": partial(timm.create_model, NAME, img_size=16, patch_size=8, global_pool="avg", **_SMALL),
    "siglip": partial(timm.create_model, "vit_base_patch16_siglip_224", img_size=32, patch_size=16, **_SMALL),
    "clip": partial(timm.create_model, "vit_base_patch16_clip_224", img_size=16, patch_size=8, **_SMALL),
    "reg4": partial(timm.create_model, "vit_small_patch14_reg4_dinov2", img_size=28, **_SMALL),
    "dynamic": partial(timm.create_model, NAME, img_size=16, patch_size=8, dynamic_img_size=True, **_SMALL),
    "eva02": partial(timm.create_model, "eva02_tiny_patch14_224", img_size=28, **_SMALL),
    "dinov3": partial(timm.create_model, "vit_small_patch16_dinov3", img_size=32, **{**_SMALL, "embed_dim": 32}),
}
FRAMES = 3
every_model = pytest.mark.parametrize("family", MODELS)


def image_model(family: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def clip(model: Any, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, FRAMES, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


@every_model
def test_features_are_the_mean_over_time_of_those_of_every_frame(family: str) -> None:
    image, model = image_model(family), frame_wise(image_model(family), FRAMES)
    x = clip(image)
    features = [image.forward_head(image.forward_features(x[:, :, t]), pre_logits=True) for t in range(FRAMES)]
    expected = torch.stack(features).mean(0)
    found: Any = model
    torch.testing.assert_close(found.forward_head(found.forward_features(x), pre_logits=True), expected)
    torch.testing.assert_close(model(x), image.head(expected))


@every_model
def test_class_keys_and_parameters_stay_those_of_the_image_model(family: str) -> None:
    image, model = image_model(family), image_model(family)
    parameters = dict(model.named_parameters())
    frame_wise(model, FRAMES)
    assert type(model) is type(image)
    assert list(model.state_dict()) == list(image.state_dict())
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert model.patch_embed.num_frames == FRAMES


@every_model
def test_a_folded_clip_is_the_clip_and_intermediates_are_maps_of_all_frames(family: str) -> None:
    image, model = image_model(family), frame_wise(image_model(family), FRAMES)
    found: Any = model
    x = clip(image)
    assert torch.equal(model(x.flatten(1, 2)), model(x))
    final, maps = found.forward_intermediates(x.flatten(1, 2))
    torch.testing.assert_close(found.forward_head(final), model(x))
    expected = [image.forward_intermediates(x[:, :, t], intermediates_only=True)[-1] for t in range(FRAMES)]
    torch.testing.assert_close(maps[-1], torch.cat(expected, dim=2))


@pytest.mark.parametrize("family", ["vit", "dinov3"])
def test_copies_pickles_and_compiled_models_agree(family: str) -> None:
    model = frame_wise(image_model(family), FRAMES)
    x = clip(model)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), expected)


def test_frames_of_one_clip_are_not_mixed_with_those_of_another() -> None:
    model = frame_wise(image_model("vit"), FRAMES)
    x = clip(model, batch=4)
    alone = torch.cat([model(one) for one in x.split(1)])
    torch.testing.assert_close(model(x), alone)


def test_the_order_of_frames_does_not_matter_to_the_baseline() -> None:
    model = frame_wise(image_model("vit"), FRAMES)
    x = clip(model)
    torch.testing.assert_close(model(x.flip(2)), model(x))


def test_dropout_of_the_head_acts_once_on_the_mean() -> None:
    drop = MeanOverTime(2, 0.5)
    x = torch.ones(6, 1000)
    torch.manual_seed(0)
    y = drop.train()(x)
    assert y.shape == (3, 1000)
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(drop.eval()(x), torch.ones(3, 1000))


@pytest.mark.parametrize("family", ["vit", "vit_avg"])
def test_with_the_mean_first_the_norm_is_that_of_the_mean(family: str) -> None:
    image, model = image_model(family), frame_wise(image_model(family), FRAMES, mean_first=True)
    x = clip(image)
    norm = image.norm if family == "vit" else image.fc_norm
    image.norm = image.fc_norm = nn.Identity()
    features = [image.forward_head(image.forward_features(x[:, :, t]), pre_logits=True) for t in range(FRAMES)]
    torch.testing.assert_close(model(x), image.head(norm(torch.stack(features).mean(0))))
    assert list(model.state_dict()) == list(image_model(family).state_dict())


def test_create_backbone_makes_the_baseline_out_of_any_weights(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {**TINY, "img_size": 32, "num_classes": 3}
    state = random_state(**arguments)
    torch.save(state, tmp_path / "image.pth")
    model: Any = create_backbone(NAME, checkpoint=tmp_path / "image.pth", num_frames=FRAMES, **arguments)
    assert_holds(model, state)
    assert isinstance(model.patch_embed, FrameEmbed)
    assert model(torch.zeros(2, 3, FRAMES, 32, 32)).shape == (2, 3)
    config = input_config(model)
    assert (config["num_frames"], config["tubelet_size"], config["size"]) == (FRAMES, None, (32, 32))


def test_another_size_and_other_classes_work_as_on_images() -> None:
    model: Any = frame_wise(image_model("vit"), FRAMES)
    model.set_input_size((32, 32))
    model.reset_classifier(7)
    assert model(torch.zeros(2, 3, FRAMES, 32, 32)).shape == (2, 7)


def test_a_method_on_every_frame_is_the_method_on_images() -> None:
    image, model = image_model("vit"), frame_wise(image_model("vit"), FRAMES)
    method = vp.Convpass(bottleneck=4)
    for one in (image, model):
        vp.attach(one, method)
        torch.manual_seed(3)
        with torch.no_grad():
            for _, parameter in vp.tuned_parameters(one):
                parameter.normal_(std=0.1)
    x = clip(image)
    logits = torch.stack([image.eval()(x[:, :, t]) for t in range(FRAMES)]).mean(0)
    torch.testing.assert_close(model.eval()(x), logits)
    assert vp.count_parameters(model) == vp.count_parameters(image)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("beit_base_patch16_224", "Beit"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("resnet18", "ResNet"),
    ],
)
def test_other_families_are_refused(name: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"is of class {kind}: frame-wise encoding needs.*VisionTransformer or Eva"):
        create_backbone(name, num_frames=4)


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (2, 3, 4, 16, 24), (6, 16, 24)])
def test_clips_of_another_length_and_single_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"wanted clips of shape \(B, 3, 3, H, W\)"):
        frame_wise(image_model("vit"), FRAMES)(torch.zeros(shape))
