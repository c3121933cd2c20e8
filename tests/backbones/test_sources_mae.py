"""Backbone files of MAE and of AdaptFormer's code, which re-keys them."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.official_files import (
    DECODER,
    SMALL,
    State,
    adaptformer,
    assert_same_outputs,
    backbone_of,
    images,
    timm_model,
    warnings_in,
)
from support.tiny_states import NAME, assert_holds, random_state

import vision_peft as vp
from vision_peft.backbones import create_backbone


def mae_container(state: State, **arguments: Any) -> dict[str, Any]:
    args = argparse.Namespace(lr=1e-3, model="mae_vit_base_patch16", **arguments)
    return {"model": state, "optimizer": {"state": {}}, "epoch": 399, "scaler": {"scale": 1.0}, "args": args}


def test_the_full_mae_pretraining_file_gives_its_encoder(tmp_path: Path, info_log: pytest.LogCaptureFixture) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    model = backbone_of(
        NAME, mae_container({**encoder.state_dict(), **DECODER}, mask_ratio=0.75), tmp_path / "mae.pth", num_classes=3
    )
    assert_holds(model, encoder.state_dict())
    model.reset_classifier(0)
    assert_same_outputs(model, encoder(images()))
    tensors = len(encoder.state_dict())
    assert f"MAE pretraining, encoder and decoder; {tensors} of {tensors + 8} tensors used" in info_log.text
    assert "dropped: decoder (8 tensors): for pretraining only" in info_log.text
    assert "fresh: head of 3 classes" in info_log.text


def test_the_mae_encoder_file_has_timms_names_and_is_used_whole(
    tmp_path: Path, info_log: pytest.LogCaptureFixture
) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    model = backbone_of(NAME, {"model": encoder.state_dict()}, tmp_path / "mae_pretrain_vit_base.pth")
    assert_same_outputs(model, encoder(images()))
    tensors = len(encoder.state_dict())
    assert f"timm's names (those of MAE, DeiT and MoCo-v3 encoders too); {tensors} of {tensors}" in info_log.text
    assert not warnings_in(info_log)


def test_a_mae_finetuned_file_brings_its_fc_norm_and_head(tmp_path: Path) -> None:
    finetuned = timm_model(num_classes=5, global_pool="avg", **SMALL)
    model = backbone_of(
        NAME,
        mae_container(finetuned.state_dict(), nb_classes=5),
        tmp_path / "finetuned.pth",
        num_classes=5,
        global_pool="avg",
    )
    assert_same_outputs(model, finetuned(images()))
    with pytest.raises(ValueError, match="give global_pool='avg'"):
        create_backbone(NAME, checkpoint=tmp_path / "finetuned.pth", num_classes=5, **SMALL)


def test_average_pooling_starts_a_fresh_fc_norm_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    model = backbone_of(NAME, {"model": encoder.state_dict()}, tmp_path / "mae.pth", global_pool="avg")
    assert_holds(model, encoder.state_dict(), but=("norm.",))
    assert model.get_parameter("fc_norm.weight").tolist() == [1.0] * 16
    assert model.get_parameter("fc_norm.bias").tolist() == [0.0] * 16
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for said in ("dropped: norm.* (2 tensors)", "fresh: fc_norm", "NormTuning", "fc_norm=False keeps the pretrained"):
        assert said in caplog.text
    vp.attach(model, vp.NormTuning())  # as the warning says
    assert model.get_parameter("fc_norm.weight").requires_grad


def test_fc_norm_false_keeps_the_pretrained_norm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    model = backbone_of(NAME, encoder.state_dict(), tmp_path / "mae.safetensors", global_pool="avg", fc_norm=False)
    assert_holds(model, encoder.state_dict())
    assert caplog.text == ""


def test_a_fresh_fc_norm_excuses_nothing_else(tmp_path: Path) -> None:
    state = random_state(num_classes=0, **SMALL)
    del state["blocks.1.attn.qkv.weight"]
    with pytest.raises(ValueError, match=r"Missing key.*blocks\.1\.attn\.qkv\.weight"):
        backbone_of(NAME, state, tmp_path / "mae.safetensors", global_pool="avg")


def test_adaptformers_re_keyed_mae_file_is_read(tmp_path: Path, info_log: pytest.LogCaptureFixture) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    official = adaptformer(encoder.state_dict())
    assert "blocks.1.attn.k_proj.bias" in official
    assert "blocks.1.fc2.weight" in official
    model = backbone_of(NAME, {"model": official}, tmp_path / "mae_pretrain_vit_b.pth")
    assert_same_outputs(model, encoder(images()))
    assert f"AdaptFormer's code (q_proj, k_proj, v_proj, fc1, fc2); {len(official)} of {len(official)}" in info_log.text


def test_a_lone_projection_in_adaptformers_names_is_an_error(tmp_path: Path) -> None:
    official = adaptformer(random_state(num_classes=0, **SMALL))
    del official["blocks.1.attn.v_proj.bias"]
    with pytest.raises(ValueError, match=r"lacks v_proj beside the others of blocks\.1\.attn\.qkv\.bias"):
        backbone_of(NAME, official, tmp_path / "model.pth")


@pytest.mark.parametrize("pooling", ["", "_global_pool"])
def test_the_backbone_of_adaptformers_own_checkpoint_is_read_and_the_method_named(
    pooling: str, shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golden = load_file(shared / "golden" / f"adaptformer_image{pooling}.safetensors")
    state = {key.removeprefix("state/"): value for key, value in golden.items() if key.startswith("state/")}
    torch.save({"model": state, "args": argparse.Namespace(ffn_num=4)}, tmp_path / "checkpoint.pth")
    size: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    size |= {"global_pool": "avg"} if pooling else {}
    model = create_backbone(NAME, checkpoint=tmp_path / "checkpoint.pth", num_classes=5, **size)
    assert "method (12 tensors): trained by a method; vp.read_foreign reads it" in caplog.text
    assert "head.1.weight" in caplog.text
    foreign = vp.read_foreign(tmp_path / "checkpoint.pth", source="adaptformer")
    assert foreign.backbone is not None
    assert foreign.method is not None
    assert_holds(model, foreign.backbone)
    vp.replace_head(model, "batchnorm_linear", 5)
    vp.attach(model, foreign.method)
    vp.load_tuned(model, foreign.tuned)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(golden["input"]), golden["logits"], atol=1e-5, rtol=1e-5)
