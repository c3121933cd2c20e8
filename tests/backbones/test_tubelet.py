"""Video ViTs by tubelets: VideoMAE's form and inflated image models, against what is written out here."""

import copy
import math
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from backbones.tiny import NAME, TINY, assert_holds, random_state
from torch import Tensor

import vision_peft as vp
from vision_peft.backbones import create_backbone, input_config
from vision_peft.backbones.tubelet import TubeletEmbed, inflate, sinusoid

SMALL: dict[str, Any] = {**TINY, "img_size": (16, 24), "patch_size": 8}  # a grid of 2 x 3
CLIP: dict[str, Any] = {"num_frames": 4, "tubelet_size": 2}


def clip(batch: int = 2, frames: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, frames, 16, 24, generator=torch.Generator().manual_seed(seed))


def video(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return create_backbone(NAME, **{**SMALL, **CLIP, **arguments}).eval()


def image_model(**arguments: Any) -> Any:
    """An image model in which no tensor has its initial value."""
    model = timm.create_model(NAME, **{**SMALL, "num_classes": 0, **arguments})
    model.load_state_dict(random_state(**{**SMALL, "num_classes": 0, **arguments}))
    return model.eval()


def inflated(how: str = "average", frames: int = 4, tubelet: int = 2, **arguments: Any) -> Any:
    return inflate(image_model(**arguments), frames, tubelet, how)


# VideoMAE's form


def test_a_token_is_the_projection_of_a_block_of_pixels_plus_its_position() -> None:
    embed = video().patch_embed
    x = clip()
    blocks = x.unfold(2, 2, 2).unfold(3, 8, 8).unfold(4, 8, 8)  # B C, 2 time steps, 2 rows, 3 columns, t P P
    pixels = blocks.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)
    expected = pixels @ embed.proj.weight.flatten(1).T + embed.proj.bias
    for place in range(12):
        for channel in range(16):
            angle = place / 10000 ** (2 * (channel // 2) / 16)
            expected[:, place, channel] += math.sin(angle) if channel % 2 == 0 else math.cos(angle)
    torch.testing.assert_close(embed(x), expected, rtol=1e-5, atol=1e-5)


def test_without_weights_the_model_is_videomaes_a_timm_model_without_a_class_token() -> None:
    model = video(num_classes=3)
    assert type(model).__module__ == "timm.models.vision_transformer"
    assert (model.cls_token, model.pos_embed, model.num_prefix_tokens) == (None, None, 0)
    tokens = model.forward_features(clip())
    assert tokens.shape == (2, 12, 16)
    expected = model.head(model.fc_norm(tokens.mean(1)))
    torch.testing.assert_close(model(clip()), expected)


def test_sinusoid_positions_are_no_parameters_in_no_file_and_never_train() -> None:
    model: Any = vp.attach(video(num_classes=3), vp.FullFineTune())
    names = [name for name, _ in vp.tuned_parameters(model)]
    assert not [name for name in [*names, *model.state_dict()] if "pos" in name or "temporal" in name]
    before = model.patch_embed.positions.clone()
    model.train()(clip()).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert torch.equal(model.patch_embed.positions, before)


def test_as_embed_layer_of_timm_it_needs_nothing_of_ours() -> None:
    layer = partial(TubeletEmbed, num_frames=4, tubelet_size=2)
    form: dict[str, Any] = {"class_token": False, "pos_embed": "none", "global_pool": "avg"}
    model = timm.create_model(NAME, embed_layer=layer, **{**SMALL, "num_classes": 0}, **form).eval()
    model.load_state_dict(video().state_dict(), strict=True)
    assert torch.equal(model(clip()), video()(clip()))


def test_the_counts_of_full_fine_tuning_and_of_adaptformer_on_something_something() -> None:
    with torch.device("meta"):
        model: Any = create_backbone("vit_base_patch16_224", num_frames=16, tubelet_size=2, num_classes=174)
    official, key_biases = 86_361_006, 12 * 768  # VideoMAE has no bias on its keys, timm has one that cancels
    vp.attach(model, vp.FullFineTune())
    trained = sum(p.numel() for _, p in vp.tuned_parameters(model))
    print(f"full fine-tuning trains {trained:,} parameters in timm, {trained - key_biases:,} in the official code")
    assert trained == official + key_biases == 86_370_222
    vp.detach(model)
    vp.attach(vp.attach(model, vp.AdaptFormer(bottleneck=64)), vp.NormTuning(norms="final"))  # fc_norm trains there
    branches, fc_norm, head = 12 * (2 * 768 * 64 + 64 + 768), 2 * 768, 174 * 769
    assert sum(p.numel() for _, p in vp.tuned_parameters(model)) == branches + fc_norm + head == 1_324_974


def test_another_length_and_size_get_positions_of_their_own() -> None:
    model = video()
    state = model.state_dict()
    longer = video(num_frames=8, img_size=32)
    longer.load_state_dict(state, strict=True)
    assert torch.equal(longer.patch_embed.positions, sinusoid(4 * 4 * 4, 16))
    model.set_input_size((32, 16))
    assert torch.equal(model.patch_embed.positions, sinusoid(2 * 4 * 2, 16))
    assert model(torch.zeros(1, 3, 4, 32, 16)).shape == (1, 16)
    assert input_config(model)["size"] == (32, 16)


def test_positions_come_back_after_to_empty_by_timms_own_initialisation() -> None:
    with torch.device("meta"):
        model: Any = create_backbone(NAME, **SMALL, **CLIP)
    model.to_empty(device="cpu")
    model.init_weights(needs_reset=True)
    assert torch.equal(model.patch_embed.positions, sinusoid(12, 16))


# Clips as timm's code wants them


@pytest.mark.parametrize("make", [video, inflated])
def test_a_folded_clip_is_the_clip_and_intermediates_are_maps_of_all_time_steps(make: Any) -> None:
    model = make(reg_tokens=0)
    folded = clip().flatten(1, 2)  # B C·T H W, as timm's Mixup makes it
    assert torch.equal(model(folded), model(clip()))
    final, maps = model.forward_intermediates(folded)
    assert torch.equal(model.forward_head(final), model(clip()))
    assert [tuple(map_.shape) for map_ in maps] == [(2, 16, 2 * 2, 3)] * TINY["depth"]
    tokens = model.forward_intermediates(folded, output_fmt="NLC", intermediates_only=True)[-1]
    assert torch.equal(maps[-1].flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("make", [video, inflated])
def test_copies_pickles_and_compiled_models_agree(make: Any) -> None:
    model = make()
    expected = model(clip())
    assert torch.equal(copy.deepcopy(model)(clip()), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(clip()), expected)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(clip()), expected)


# Inflated image models


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


# Methods


def small(method: type[vp.Method]) -> vp.Method:
    sizes = {"houlsby": {"bottleneck": 4}, "fact": {"rank": 2, "form": "tk"}, "lst": {"reduction": 4}}
    return method(**sizes.get(method.name, {}))


TUBELET_METHODS = [method for method in vp.METHODS.values() if not method.video]


@pytest.mark.parametrize("method", TUBELET_METHODS, ids=lambda m: m.name)
def test_the_temporal_embedding_trains_is_counted_and_stored_with_every_method_but_a_linear_probe(
    method: type[vp.Method], tmp_path: Path
) -> None:
    def wide() -> Any:
        torch.manual_seed(0)
        return create_backbone(NAME, **{**SMALL, "embed_dim": 32}, **CLIP, inflate="average", num_classes=3)

    trains = method is not vp.LinearProbe
    plain = vp.attach(timm.create_model(NAME, **{**SMALL, "embed_dim": 32, "num_classes": 3}), small(method))
    model: Any = vp.attach(wide(), small(method))
    positions = 6 * 32 if method is vp.FullFineTune else 0  # the second time step's
    tubelets = 3 * 64 * 32 if method is vp.FullFineTune else 0  # the second frame of the convolution
    more = vp.count_parameters(model).trained - vp.count_parameters(plain).trained
    assert more == trains * 2 * 32 + positions + tubelets
    assert ("patch_embed.temporal_embed" in dict(vp.tuned_parameters(model))) == trains
    if method.name != "prompt_tuning":
        model.train()(clip(batch=4)).square().sum().backward()
        assert (model.patch_embed.temporal_embed.grad is not None) == trains
    if trains:
        with torch.no_grad():
            model.patch_embed.temporal_embed.normal_()
    vp.save_adapter(model, tmp_path)
    loaded = vp.load_adapter(wide(), tmp_path).eval()
    torch.testing.assert_close(loaded(clip()), model.eval()(clip()), rtol=1e-5, atol=1e-5)


def test_a_method_stacked_on_a_linear_probe_trains_the_temporal_embedding() -> None:
    model: Any = vp.attach(inflated(num_classes=3), vp.LinearProbe())
    assert not model.patch_embed.temporal_embed.requires_grad
    vp.attach(model, vp.LoRA(rank=1))
    assert model.patch_embed.temporal_embed.requires_grad


def test_an_attach_that_fails_leaves_the_temporal_embedding_as_it_was() -> None:
    model: Any = inflated()
    with pytest.raises(ValueError, match="reduction"):
        vp.attach(model, vp.LST(reduction=3))
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(model(clip()), inflated()(clip()))


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        (CLIP, {"num_frames": 8, "tubelet_size": 2}),
        (CLIP, {"num_frames": 4, "tubelet_size": 1}),
        (CLIP, {"num_frames": 4}),
        (CLIP, {}),
        ({"num_frames": 4}, {}),
        ({}, {"num_frames": 4}),
    ],
    ids=repr,
)
def test_an_adapter_for_other_clips_is_refused(wanted: dict[str, Any], got: dict[str, Any], tmp_path: Path) -> None:
    form: dict[str, Any] = {} if "tubelet_size" in wanted and got else {"class_token": False, "global_pool": "avg"}
    model = vp.attach(create_backbone(NAME, **SMALL, **form, **wanted, num_classes=3), vp.LoRA(rank=1))
    vp.save_adapter(model, tmp_path)
    other = create_backbone(NAME, **{**SMALL, **got, "class_token": False, "global_pool": "avg"}, num_classes=3)
    with pytest.raises(ValueError, match=r"belongs to another backbone.*(num_frames|tubelet_size): adapter"):
        vp.load_adapter(other, tmp_path)


def test_convpass_convolves_every_time_step_by_itself() -> None:
    model = vp.attach(inflated(), vp.Convpass(bottleneck=4))
    bypass: Any = model.get_submodule("blocks.0.convpass.attn")
    z = torch.randn(2, 1 + 12, 4)
    found = bypass._convolve_tokens(z, 2, 3)
    for step in range(2):
        own = z[:, 1 + 6 * step : 7 + 6 * step].reshape(2, 2, 3, 4).permute(0, 3, 1, 2)
        expected = bypass.conv(own).permute(0, 2, 3, 1).reshape(2, 6, 4)
        torch.testing.assert_close(found[:, 1 + 6 * step : 7 + 6 * step], expected)


@pytest.mark.parametrize("make", [video, partial(video, tubelet_size=None)], ids=["tubelet", "frames"])
def test_prompts_start_from_the_patch_tokens_of_clips(make: Any) -> None:
    model = make(num_classes=2)
    samples = [(clip(batch=2), torch.tensor([0, 1]))]
    vp.attach(model, vp.PromptTuning(tokens=2, init="class_labels", images_per_class=1), samples=samples)
    tokens = make(num_classes=2).patch_embed(clip(batch=2))
    if not hasattr(model.patch_embed, "tubelet_size"):  # class token and positions join behind the embedding
        tokens = (tokens + model.pos_embed[:, 1:]).unflatten(0, (2, 4)).flatten(1, 2)
    torch.testing.assert_close(model.norm_pre.soft_prompts[0], tokens.mean(1), rtol=1e-5, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 5, "tubelet_size": 2}, "num_frames 5 is not a multiple of tubelet_size 2.*Take 4 or 6"),
        ({"num_frames": 1, "tubelet_size": 2}, "not a multiple of tubelet_size 2.*Take 2"),
        ({"num_frames": 0}, "num_frames must be a whole number above 0; got 0"),
        ({"num_frames": 4, "tubelet_size": 2.0}, "tubelet_size must be a whole number"),
        ({"tubelet_size": 2}, "give num_frames"),
        ({"num_frames": 4, "inflate": "average"}, "give tubelet_size"),
        ({**CLIP, "inflate": "center"}, "inflate must be one of 'average', 'centre'; got 'center'"),
        ({**CLIP, "img_size": 20}, "img_size 20 is not a multiple of the patch size 8.*Take 16 or 24"),
        ({**CLIP, "dynamic_img_size": True}, "resizes positions at every forward"),
    ],
)
def test_frames_and_sizes_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(NAME, **{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("eva02_tiny_patch14_224", "Eva", "Leave tubelet_size out"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer", "class VisionTransformer"),
        ("beit_base_patch16_224", "Beit", "class VisionTransformer"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled", "class VisionTransformer"),
        ("resnet18", "ResNet", "class VisionTransformer"),
    ],
)
def test_tubelets_on_another_family_are_refused_before_weights_are_fetched(name: str, kind: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"is of class {kind}: tubelets need.*{hint}"):
        create_backbone(name, pretrained=True, num_frames=4, tubelet_size=2)


def test_a_stem_of_several_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match="embeds patches by HybridEmbed"):
        create_backbone("vit_tiny_r_s16_p8_224", num_frames=4, tubelet_size=2)


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (2, 3, 8, 16, 24), (2, 1, 4, 16, 24), (3, 4, 16, 24)])
def test_input_of_another_length_or_a_single_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"wanted clips of shape \(B, 3, 4, H, W\)") as error:
        video()(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_clips_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted clips of \(16, 24\) pixels.*got \(16, 16\)"):
        video()(torch.zeros(1, 3, 4, 16, 16))


def test_an_inflated_model_keeps_its_size() -> None:
    with pytest.raises(ValueError, match="create the backbone with the img_size"):
        inflated().set_input_size((32, 32))


def test_the_input_config_tells_the_frames() -> None:
    assert {key: input_config(video())[key] for key in ("num_frames", "tubelet_size", "size")} == {
        **CLIP,
        "size": (16, 24),
    }
    assert input_config(video(tubelet_size=None))["tubelet_size"] is None
    assert "num_frames" not in input_config(image_model())
