"""Backbone files of other code: what holds whichever code wrote the file."""

import re
from pathlib import Path

import pytest
import torch
from support.official_files import CLIP_NAME, DECODER, SMALL, Tower, adaptformer, backbone_of, clip_file, moco_v3
from support.tiny_states import NAME, assert_holds, random_state
from timm.layers import resample_abs_pos_embed
from torch import Tensor


@pytest.mark.parametrize("code", ["mae", "moco_v3", "adaptformer", "clip"])
def test_positions_are_resampled_as_timm_resamples_them(
    code: str, tower: Tower, tmp_path: Path, info_log: pytest.LogCaptureFixture
) -> None:
    encoder = random_state(num_classes=0, **SMALL)
    files = {
        "mae": {"model": {**encoder, **DECODER}},
        "moco_v3": {"state_dict": moco_v3(encoder)},
        "adaptformer": {"model": adaptformer(encoder)},
        "clip": clip_file(tower),
    }
    positions = tower.positional_embedding[None].detach() if code == "clip" else encoder["pos_embed"]
    name = CLIP_NAME if code == "clip" else NAME
    model = backbone_of(name, files[code], tmp_path / "model.pth", img_size=(48, 80))
    wanted = resample_abs_pos_embed(positions, new_size=[3, 5], num_prefix_tokens=1)
    assert torch.equal(model.get_parameter("pos_embed"), wanted)
    assert "positions: resampled from 2 x 2 to 3 x 5" in info_log.text


@pytest.mark.parametrize("code", ["mae", "moco_v3", "adaptformer"])
def test_another_depth_is_an_error_that_names_blocks_and_source(code: str, tmp_path: Path) -> None:
    encoder = random_state(num_classes=0, **SMALL)
    files = {"mae": {**encoder, **DECODER}, "moco_v3": moco_v3(encoder), "adaptformer": adaptformer(encoder)}
    with pytest.raises(ValueError, match=rf"\((?i:{code[:3]}).*\) does not fit {NAME}(.|\n)*blocks\.2\."):
        backbone_of(NAME, {"model": files[code]}, tmp_path / "model.pth", depth=3)


@pytest.mark.parametrize("keep", [r"decoder_|mask_token", r"(patch_embed|norm)\b"])
@pytest.mark.parametrize("name", [NAME, "vit_base_patch16_siglip_gap_224"])
def test_a_file_without_the_blocks_is_an_error(keep: str, name: str, tmp_path: Path) -> None:
    state = {**random_state(num_classes=0, **SMALL), **DECODER}
    with pytest.raises(ValueError, match=r"Missing key.*blocks\.0\.norm1\.weight"):
        backbone_of(name, {"model": {key: state[key] for key in state if re.match(keep, key)}}, tmp_path / "model.pth")


def test_the_attention_pool_of_siglip_is_reported_where_the_model_pools_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = random_state("vit_base_patch16_siglip_224", num_classes=0, **SMALL)
    name = "vit_base_patch16_siglip_gap_224"
    model = backbone_of(name, state, tmp_path / "siglip.safetensors", fc_norm=False)
    assert_holds(model, state, but=("attn_pool.",))
    assert re.search(r"attn_pool \(\d+ tensors\): the model pools in another way", caplog.text)


@pytest.mark.parametrize("prefix", ["", "encoder.", "module."])
def test_a_video_checkpoint_is_refused(prefix: str, tmp_path: Path) -> None:
    state = random_state(num_classes=0, **SMALL)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, None].repeat(1, 1, 2, 1, 1)
    with pytest.raises(ValueError, match=r"is a video checkpoint.*\(16, 3, 2, 16, 16\), patches over 2 frames"):
        backbone_of(
            NAME, {"model": {f"{prefix}{key}": value for key, value in state.items()}}, tmp_path / "videomae.pth"
        )


def test_the_names_of_hugging_face_transformers_are_told_apart(tmp_path: Path) -> None:
    state = {"vit.embeddings.patch_embeddings.projection.weight": torch.zeros(16, 3, 16, 16)}
    with pytest.raises(ValueError, match=r"\(Hugging Face transformers' names\) does not fit"):
        backbone_of(NAME, state, tmp_path / "model.safetensors")


def test_the_representation_layer_that_timm_leaves_out_is_reported(
    tmp_path: Path, info_log: pytest.LogCaptureFixture
) -> None:
    state = random_state(num_classes=0, **SMALL)
    content = {**state, "pre_logits.fc.weight": torch.zeros(16, 16)}
    assert_holds(backbone_of(NAME, content, tmp_path / "model.safetensors"), state)
    assert f"{len(state)} of {len(state) + 1} tensors used" in info_log.text
    assert "representation layer (1 tensor)" in info_log.text


@pytest.mark.parametrize(
    ("name", "value"), [("pos_embed", torch.zeros(5)), ("visual.positional_embedding", torch.zeros(5))]
)
def test_positions_of_an_odd_shape_are_a_misfit(name: str, value: Tensor, tower: Tower, tmp_path: Path) -> None:
    state = clip_file(tower) if name.startswith("visual") else random_state(num_classes=0, **SMALL)
    architecture = CLIP_NAME if name.startswith("visual") else NAME
    with pytest.raises(ValueError, match="does not fit"):
        backbone_of(architecture, {**state, name: value}, tmp_path / "model.pth")


def test_a_block_too_many_for_relative_positions_is_a_misfit(tmp_path: Path) -> None:
    state = random_state("beit_base_patch16_224", num_classes=0, **{**SMALL, "depth": 3})
    with pytest.raises(ValueError, match="does not fit beit_base_patch16_224"):
        backbone_of("beit_base_patch16_224", state, tmp_path / "beit.safetensors")
