"""The class token and the mean of the patch tokens are what timm's own pooling would give."""

import pytest
import torch
from support.families import FAMILIES, randomise_tuned

import vision_peft as vp
from vision_peft.backbones import input_config
from vision_peft.inference.predictor import Predictor
from vision_peft.tuning.pool_tokens import pool_tokens

WITHOUT_CLASS_TOKEN = ("siglip", "tubelet", "swin", "swin_v2", "swin_v2_cr")
READ = {"token": "class", "avg": "patches"}  # what timm's pooling is of


def draw_images(model: torch.nn.Module, number: int = 2) -> torch.Tensor:
    settings = input_config(model)
    frames = (settings["num_frames"],) if settings.get("num_frames") else ()
    return torch.randn(number, 3, *frames, *settings["size"], generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_that_enter_the_head_where_timm_pools_them_so(family: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family].make().eval()
    images = draw_images(model)
    head = Predictor(model, "cpu").forward(images).features
    for which in ("class", "patches"):
        if which == "class" and family in WITHOUT_CLASS_TOKEN:
            with pytest.raises(ValueError, match=r"has no class token: take the features 'patches' or 'head'"):
                pool_tokens(model, images, which)
            continue
        found = pool_tokens(model, images, which)
        same = READ.get(getattr(model, "global_pool", "avg")) == which and family != "deit_distilled"
        assert found.shape == head.shape
        assert torch.allclose(found, head, atol=1e-5) == same


@torch.no_grad()
def test_registers_prompts_and_the_distillation_token_are_neither() -> None:
    for family, prefix in (("dinov2_reg4", 5), ("deit_distilled", 2)):
        model: torch.nn.Module = FAMILIES[family].make().eval()
        images = draw_images(model)
        vp.attach(model, vp.VPT(tokens=3, deep=False))
        randomise_tuned(model)
        tokens = model.forward_features(images)  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(pool_tokens(model, images, "class"), tokens[:, 0])
        torch.testing.assert_close(pool_tokens(model, images, "patches"), tokens[:, prefix + 3 :].mean(1))
        assert tokens.shape[1] > prefix + 3


@torch.no_grad()
def test_an_ensemble_of_prompts_and_the_frames_of_a_clip_are_averaged() -> None:
    model = FAMILIES["vit"].make().eval()
    images = draw_images(model, 3)
    vp.attach(model, vp.PromptTuning(tokens=2, ensemble=4))
    randomise_tuned(model)
    tokens = model.forward_features(images).unflatten(0, (4, 3))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(pool_tokens(model, images, "patches"), tokens[:, :, 3:].mean((0, 2)))
    clips = FAMILIES["frames"].make().eval()
    videos = draw_images(clips, 3)
    tokens = clips.forward_features(videos).unflatten(0, (3, 4))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(pool_tokens(clips, videos, "patches"), tokens[:, :, 1:].mean((1, 2)))


@torch.no_grad()
def test_a_shortened_last_block_gives_all_tokens() -> None:
    model = FAMILIES["vit"].make().eval()
    images = draw_images(model)
    before = pool_tokens(model, images, "patches")
    assert vp.shorten_last_block(model)
    torch.testing.assert_close(pool_tokens(model, images, "patches"), before)


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens to pool are class or patches, got 'mean'"):
        Predictor(FAMILIES["vit"].make(), "cpu", features="mean")
