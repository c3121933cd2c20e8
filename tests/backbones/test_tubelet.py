"""Video ViTs by tubelets: VideoMAE's form, and clips as timm's code wants them, against what is written out here."""

import copy
import math
import pickle
from functools import partial
from typing import Any

import pytest
import timm
import torch
from support.tiny_states import NAME, TINY
from support.tubelet_models import CLIP, SMALL, clip, image_model, inflated, video

import vision_peft as vp
from vision_peft.backbones import create_backbone, input_config
from vision_peft.backbones.tubelet import TubeletEmbed, sinusoid


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


def test_the_input_config_tells_the_frames() -> None:
    assert {key: input_config(video())[key] for key in ("num_frames", "tubelet_size", "size")} == {
        **CLIP,
        "size": (16, 24),
    }
    assert input_config(video(tubelet_size=None))["tubelet_size"] is None
    assert "num_frames" not in input_config(image_model())
