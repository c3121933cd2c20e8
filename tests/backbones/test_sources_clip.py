"""Backbone files of OpenAI's CLIP, OpenCLIP and EVA-CLIP."""

import re
from pathlib import Path

import pytest
import torch
from support.official_files import (
    CLIP_NAME,
    SMALL,
    Tower,
    assert_same_outputs,
    backbone_of,
    clip_file,
    images,
    timm_model,
    warnings_in,
)
from support.tiny_states import NAME, random_state
from torch import nn

from vision_peft.backbones import create_backbone


def test_openais_clip_gives_the_features_of_its_image_tower(
    tower: Tower, tmp_path: Path, info_log: pytest.LogCaptureFixture
) -> None:
    model = backbone_of(CLIP_NAME, clip_file(tower), tmp_path / "ViT-B-16.pt")
    assert_same_outputs(model, tower.features(images()))
    tensors = len(tower.state_dict())
    assert f"CLIP in OpenAI's names; {tensors - 1} of {tensors + 9} tensors used" in info_log.text
    assert "text tower (5 tensors): not the image tower" in info_log.text
    assert "visual.proj (1 tensor): the projection to 6 dimensions (wanted: 0 classes)" in info_log.text
    assert not warnings_in(info_log)


def test_a_head_of_the_projections_size_is_the_projection(tower: Tower, tmp_path: Path) -> None:
    model = backbone_of(CLIP_NAME, clip_file(tower), tmp_path / "clip.pt", num_classes=6)
    assert_same_outputs(model, tower(images()))


def test_a_clip_file_with_average_pooling_has_a_fresh_fc_norm(
    tower: Tower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = backbone_of(CLIP_NAME, clip_file(tower), tmp_path / "clip.pt", global_pool="avg")
    assert model.get_parameter("fc_norm.weight").tolist() == [1.0] * 16
    assert "visual.ln_post.* (2 tensors)" in caplog.text


def test_the_state_dict_of_the_image_tower_alone_is_read(
    tower: Tower, tmp_path: Path, info_log: pytest.LogCaptureFixture
) -> None:
    model = backbone_of(CLIP_NAME, tower.state_dict(), tmp_path / "visual.pt")
    assert_same_outputs(model, tower.features(images()))
    assert "does not say whether it was trained with GELU or QuickGELU; used: QuickGELU" in info_log.text


def test_openais_weights_in_a_gelu_architecture_are_a_warning(
    tower: Tower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone_of("vit_base_patch16_clip_224", clip_file(tower), tmp_path / "clip.pt")
    assert "this architecture computes GELU: take the one with _clip_quickgelu_" in caplog.text


def test_a_clip_file_in_another_architecture_names_one_that_fits(tower: Tower, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"norm_pre(.|\n)*wants its own architecture, such as vit_base_patch16_clip_"):
        backbone_of(NAME, clip_file(tower), tmp_path / "clip.pt")


@pytest.mark.filterwarnings("ignore")  # of tracing, which only makes the archive
def test_a_torchscript_archive_is_refused_with_a_way_out_that_works(
    tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = nn.Module()
    whole.visual = tower
    whole.forward = tower.forward  # type: ignore[method-assign]
    torch.jit.save(torch.jit.trace_module(whole, {"forward": images()}), "ViT-B-16.pt")
    with pytest.raises(ValueError, match="is a TorchScript archive") as error:
        create_backbone(CLIP_NAME, checkpoint="ViT-B-16.pt", **SMALL)
    advice = re.search(r"torch\.save\(.*\)", str(error.value))
    assert advice is not None
    exec(advice[0])
    assert_same_outputs(create_backbone(CLIP_NAME, checkpoint="clip.pth", **SMALL), tower.features(images()))


def test_an_openclip_file_with_a_timm_tower_is_read_with_its_projection(
    tmp_path: Path, info_log: pytest.LogCaptureFixture
) -> None:
    trunk = timm_model(num_classes=0, **SMALL)
    projection = torch.randn(6, 16)
    state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    state |= {"visual.head.proj.weight": projection, "logit_scale": torch.tensor(4.6), "logit_bias": torch.tensor(0.0)}
    state |= {"text.transformer.resblocks.0.ln_1.weight": torch.zeros(8), "text.positional_embedding": torch.zeros(9)}
    model = backbone_of(
        NAME,
        {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        tmp_path / "open_clip.pt",
        num_classes=6,
    )
    with torch.no_grad():
        assert_same_outputs(model, trunk(images()) @ projection.T)
    assert_same_outputs(create_backbone(NAME, checkpoint=tmp_path / "open_clip.pt", **SMALL), trunk(images()))
    tensors = len(trunk.state_dict())
    assert f"OpenCLIP with a timm tower; {tensors} of {tensors + 5} tensors used" in info_log.text
    assert "text tower (2 tensors)" in info_log.text
    assert "visual.head.proj.weight (1 tensor): the projection to 6 dimensions" in info_log.text


def test_a_foreign_network_beside_the_tower_is_named(tmp_path: Path) -> None:
    state = {f"visual.trunk.{key}": value for key, value in random_state(num_classes=0, **SMALL).items()}
    with pytest.raises(ValueError, match=r"layout of OpenCLIP with a timm tower.*aesthetic\.weight"):
        backbone_of(NAME, {**state, "aesthetic.weight": torch.zeros(2)}, tmp_path / "open_clip.pt")


def test_the_image_tower_of_eva_clip_is_read(tmp_path: Path) -> None:
    name = "eva02_base_patch16_clip_224"
    source = timm_model(name, num_classes=6, **SMALL)
    renames = {
        "mlp.norm": "mlp.ffn_ln",
        "attn.norm": "attn.inner_attn_ln",
        "mlp.fc1_g": "mlp.w1",
        "mlp.fc1_x": "mlp.w2",
    }
    renames |= {"mlp.fc2": "mlp.w3", "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    state = {}
    for key, value in source.state_dict().items():
        for new, old in renames.items():
            key = key.replace(new, old)
        state[f"visual.{key}"] = value
    state |= {"visual.rope.freqs_cos": torch.zeros(4, 8), "text.ln_final.weight": torch.zeros(8)}
    model = backbone_of(name, state, tmp_path / "eva_clip.pt", num_classes=6)
    assert_same_outputs(model, source(images()))
