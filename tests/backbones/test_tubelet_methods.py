"""Methods on video ViTs by tubelets: the temporal embedding, adapters for other clips, Convpass and prompts."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.families import attach
from support.tiny_states import NAME
from support.tubelet_models import CLIP, SMALL, clip, inflated, video

import vision_peft as vp
from vision_peft.backbones import create_backbone
from vision_peft.tuning.frame_attention import FRAMES


def small(method: type[vp.Method]) -> vp.Method:
    sizes = {"houlsby": {"bottleneck": 4}, "fact": {"rank": 2, "form": "tk"}, "lst": {"reduction": 4}}
    return method(**sizes.get(method.name, {}))


TUBELET_METHODS = [
    method for method in vp.METHODS.values() if FRAMES not in method().needs and not method().brings_head
]


@pytest.mark.parametrize("method", TUBELET_METHODS, ids=lambda m: m.name)
def test_the_temporal_embedding_trains_is_counted_and_stored_with_every_method_but_a_linear_probe(
    method: type[vp.Method], tmp_path: Path
) -> None:
    def wide() -> Any:
        torch.manual_seed(0)
        return create_backbone(NAME, **{**SMALL, "embed_dim": 32}, **CLIP, inflate="average", num_classes=3)

    trains = method is not vp.LinearProbe
    plain = attach(timm.create_model(NAME, **{**SMALL, "embed_dim": 32, "num_classes": 3}), small(method))
    model: Any = attach(wide(), small(method))
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
