"""create_backbone by name: what it builds, and which names, sizes and arguments it refuses."""

from typing import Any

import pytest
import timm
import torch
from support.tiny_states import NAME, TINY

from vision_peft.backbones import create_backbone, input_config

# Old names that timm maps to one of several ImageNet-21k sets, read off timm's registry.
AMBIGUOUS = {
    "vit_base_patch16_224_in21k": "vit_base_patch16_224",
    "vit_base_patch32_224_in21k": "vit_base_patch32_224",
    "vit_large_patch16_224_in21k": "vit_large_patch16_224",
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (NAME, TINY),
    "eva": ("eva02_tiny_patch14_224", TINY),
    "beit": ("beit_base_patch16_224", TINY),
    "swin": ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_takes_another_image_size_and_says_it_in_its_input_config(family: str) -> None:
    name, arguments = FAMILIES[family]
    model = create_backbone(name, img_size=112, num_classes=3, **arguments).eval()
    assert type(model) is type(timm.create_model(name, **arguments))
    assert model(torch.zeros(1, 3, 112, 112)).shape == (1, 3)
    assert input_config(model)["size"] == (112, 112)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("maxvit_pico_rw_256", {"depths": (1, 1), "embed_dim": (32, 32), "stem_width": 16}),
        ("hiera_tiny_224", {"embed_dim": 8, "num_heads": 1, "stages": (1, 1, 1, 1)}),
        ("xcit_nano_12_p16_224", {"depth": 1, "embed_dim": 16, "num_heads": 2}),
    ],
)
def test_a_model_that_does_not_know_its_size_has_that_which_it_was_given(name: str, arguments: dict[str, Any]) -> None:
    model = create_backbone(name, img_size=64, num_classes=3, **arguments).eval()
    assert input_config(model)["size"] == (64, 64)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_height_and_width_may_differ() -> None:
    model = create_backbone(NAME, img_size=(32, 64), **TINY)
    assert model(torch.zeros(1, 3, 32, 64)).shape == (1, 16)
    assert input_config(model)["size"] == (32, 64)


def test_without_classes_the_features_come_out() -> None:
    model = create_backbone(NAME, **TINY)
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, TINY["embed_dim"])


def test_drop_path_grows_linearly_to_the_last_block() -> None:
    model: Any = create_backbone(NAME, drop_path=0.2, **{**TINY, "depth": 3})
    assert isinstance(model.blocks[0].drop_path1, torch.nn.Identity)
    assert [round(block.drop_path2.drop_prob, 6) for block in model.blocks[1:]] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("name", "mean", "interpolation", "crop_pct", "size"),
    [
        ("vit_base_patch16_224.augreg_in21k", 0.5, "bicubic", 0.9, 224),
        ("vit_small_patch14_dinov2.lvd142m", 0.485, "bicubic", 1.0, 518),
        ("vit_base_patch16_clip_224.openai", 0.48145466, "bicubic", 0.9, 224),
    ],
)
def test_the_input_config_is_that_of_the_tag(
    name: str, mean: float, interpolation: str, crop_pct: float, size: int
) -> None:
    model = create_backbone(name, **TINY)
    config = input_config(model)
    assert sorted(config) == ["crop_pct", "interpolation", "mean", "size", "std"]
    assert (config["mean"][0], config["interpolation"], config["crop_pct"]) == (mean, interpolation, crop_pct)
    assert len(config["mean"]) == len(config["std"]) == 3
    assert config["size"] == (size, size)


def test_the_pretrained_cfg_tells_architecture_and_tag() -> None:
    model: Any = create_backbone("vit_base_patch16_224.orig_in21k", **TINY)
    assert (model.pretrained_cfg["architecture"], model.pretrained_cfg["tag"]) == ("vit_base_patch16_224", "orig_in21k")


@pytest.mark.parametrize(("alias", "architecture"), AMBIGUOUS.items())
def test_an_old_name_with_two_meanings_is_refused_and_both_are_named(alias: str, architecture: str) -> None:
    with pytest.raises(ValueError, match="ambiguous") as error:
        create_backbone(alias, pretrained=True)
    assert f"{architecture}.augreg_in21k" in str(error.value)
    assert f"{architecture}.orig_in21k" in str(error.value)


def test_an_old_name_with_one_meaning_is_built() -> None:
    model: Any = create_backbone("vit_tiny_patch16_224_in21k", **TINY)
    assert model.pretrained_cfg["tag"] == "augreg_in21k"


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("vit_base_patch16_244", "vit_base_patch16_224"),
        ("vit_base_patch16_224.augreg_in12k", "vit_base_patch16_224.augreg_in21k"),
        ("dinov2_small_pipy", "dinov2_small_pypi"),
        ("vit_base_patch_16_224.augreg_in21k", "vit_base_patch16_224.augreg_in21k"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(typo: str, meant: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as error:
        create_backbone(typo)
    assert meant in str(error.value) or meant.partition(".")[2] in str(error.value).partition("did you mean")[2]


def test_an_unknown_tag_gets_the_list_of_tags() -> None:
    with pytest.raises(ValueError, match="Its tags: augreg_in21k, augreg_in21k_ft_in1k"):
        create_backbone(f"{NAME}.zzz")


def test_a_name_without_weights_cannot_be_pretrained() -> None:
    with pytest.raises(ValueError, match="no pretrained weights for vit_giant_patch14_224"):
        create_backbone("vit_giant_patch14_224", pretrained=True)


@pytest.mark.parametrize(("size", "offer"), [(60, "48 or 64"), (10, "Take 16"), ((32, 40), "32 or 48")])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(size: Any, offer: str) -> None:
    with pytest.raises(ValueError, match="not a multiple of the patch size 16") as error:
        create_backbone(NAME, img_size=size, **TINY)
    assert offer in str(error.value)


@pytest.mark.parametrize("size", [0, -16, (224,), (224, 224, 3), (32.0, 32.0)])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="not a number of pixels"):
        create_backbone(NAME, img_size=size, **TINY)


def test_an_argument_that_the_model_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 does not take this argument.*'bottleneck'"):
        create_backbone(NAME, bottleneck=3)
    with pytest.raises(ValueError, match=r"resnet18 does not take this argument.*'img_size'"):
        create_backbone("resnet18", img_size=64)
