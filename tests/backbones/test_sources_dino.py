"""Backbone files of MoCo-v3, DINO, DINOv2 and DINOv3."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.official_files import (
    SMALL,
    State,
    assert_same_outputs,
    backbone_of,
    images,
    moco_v3,
    timm_model,
    warnings_in,
)
from support.tiny_states import NAME, TINY

from vision_peft.backbones import create_backbone


def test_a_moco_v3_pretraining_file_gives_its_base_encoder(tmp_path: Path, info_log: pytest.LogCaptureFixture) -> None:
    encoder = timm_model(num_classes=0, **SMALL)
    content = {"epoch": 300, "arch": "vit_base", "state_dict": moco_v3(encoder.state_dict()), "scaler": {}}
    assert_same_outputs(backbone_of(NAME, content, tmp_path / "vit-b-300ep.pth.tar"), encoder(images()))
    tensors = len(encoder.state_dict())
    assert f"MoCo-v3 pretraining; {tensors} of {2 * tensors + 9} tensors used" in info_log.text
    assert f"momentum_encoder ({tensors + 4} tensors): the slow copy" in info_log.text
    assert "predictor (1 tensor)" in info_log.text
    assert "projector (4 tensors)" in info_log.text


def test_a_moco_v3_linear_file_brings_its_head(tmp_path: Path) -> None:
    probe = timm_model(num_classes=7, **SMALL)
    state = {f"module.{key}": value for key, value in probe.state_dict().items()}
    content = {"epoch": 90, "arch": "vit_base", "state_dict": state, "best_acc1": np.float64(76.7), "optimizer": {}}
    model = backbone_of(NAME, content, tmp_path / "linear.pth.tar", num_classes=7)
    assert_same_outputs(model, probe(images()))


DINOV2: dict[str, Any] = {**TINY, "img_size": 28, "num_classes": 0}


def dinov2(state: State) -> State:
    """timm's names to the official ones; with registers timm adds the class token's position to the token."""
    official = {**state, "mask_token": torch.randn(1, 16)}
    if "reg_token" in state:
        position = torch.randn(1, 1, 16)
        official["register_tokens"] = official.pop("reg_token")
        official["cls_token"] = state["cls_token"] - position
        official["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    return official


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_the_official_dinov2_file_is_read(name: str, tmp_path: Path, info_log: pytest.LogCaptureFixture) -> None:
    source = timm_model(name, **DINOV2)
    official = dinov2(source.state_dict())
    model = backbone_of(name, official, tmp_path / "dinov2.pth", **DINOV2)
    assert_same_outputs(model, source(images(28)), size=28)
    assert f"DINOv2; {len(official) - 1} of {len(official)} tensors used" in info_log.text
    assert "mask token (1 tensor): for pretraining only" in info_log.text
    bigger = create_backbone(name, checkpoint=tmp_path / "dinov2.pth", **{**DINOV2, "img_size": 42})
    assert bigger(torch.zeros(1, 3, 42, 42)).shape == (1, 16)
    assert "positions: resampled from 2 x 2 to 3 x 3" in info_log.text


def test_the_swiglu_names_of_dinov2_giant_are_read(tmp_path: Path) -> None:
    size: dict[str, Any] = {**DINOV2, "mlp_ratio": 4}  # SwiGLU halves it
    source = timm_model("vit_giant_patch14_dinov2", **size)
    state = source.state_dict()
    renamed = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): state[key] for key in state}
    model = backbone_of(
        "vit_giant_patch14_dinov2", {**renamed, "mask_token": torch.zeros(1, 16)}, tmp_path / "vitg14.pth", **size
    )
    assert_same_outputs(model, source(images(28)), size=28)


def test_a_training_checkpoint_of_dino_gives_its_teacher(tmp_path: Path, info_log: pytest.LogCaptureFixture) -> None:
    source = timm_model(num_classes=0, **SMALL)
    teacher = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    teacher["head.mlp.0.weight"] = torch.zeros(8, 16)
    student = {f"module.{key}": value + 1 for key, value in teacher.items()}
    args = argparse.Namespace(arch="vit_small")
    assert_same_outputs(
        backbone_of(NAME, {"student": student, "teacher": teacher, "epoch": 100, "args": args}, tmp_path / "dino.pth"),
        source(images()),
    )
    assert "projection heads (1 tensor)" in info_log.text


@pytest.mark.parametrize("biases", ["zero", "not zero"])
def test_biases_that_a_dinov3_architecture_lacks_are_reported(
    biases: str, tmp_path: Path, info_log: pytest.LogCaptureFixture
) -> None:
    name, size = "vit_small_patch16_dinov3", {**SMALL, "num_classes": 0}
    source = timm_model(name, **size)
    official = {}
    for key, value in source.state_dict().items():
        official[re.sub(r"gamma_(\d)", r"ls\1.gamma", key).replace("reg_token", "storage_tokens")] = value
    for index in range(2):
        official[f"blocks.{index}.attn.qkv.bias"] = torch.full((48,), float(biases != "zero"))
        official[f"blocks.{index}.attn.qkv.bias_mask"] = torch.ones(48)
    official |= {"mask_token": torch.zeros(1, 16), "rope_embed.periods": torch.zeros(4)}
    assert_same_outputs(backbone_of(name, official, tmp_path / "dinov3.pth", **size), source(images()))
    assert f"DINOv3; {len(source.state_dict())} of {len(official)} tensors used" in info_log.text
    assert ("NOT zero" in info_log.text) == (biases == "not zero")
    assert bool(warnings_in(info_log)) == (biases == "not zero")
