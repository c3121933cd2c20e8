"""Clips, frames and families that a video model refuses."""

from typing import Any

import pytest
import torch
from support.tiny_states import NAME
from support.tubelet_models import CLIP, SMALL, inflated, video

from vision_peft.backbones import create_backbone


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
