"""Video checkpoints of VideoMAE, VideoMAE v2 and AdaptFormer: loaded strictly, and everything in them accounted for."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.tiny_states import NAME, TINY, assert_holds
from torch import Tensor

from vision_peft.backbones import create_backbone, input_config

MODEL: dict[str, Any] = {**TINY, "img_size": 32, "patch_size": 16, "num_frames": 4, "tubelet_size": 2}
State = dict[str, Tensor]


def finetuned(classes: int = 5) -> tuple[State, State]:
    """A fine-tuned encoder in timm's names with zero key biases, and the same under VideoMAE's names."""
    torch.manual_seed(0)
    model = create_backbone(NAME, num_classes=classes, **MODEL)
    ours = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    theirs = dict(ours)
    for index in range(TINY["depth"]):
        attn = f"blocks.{index}.attn."
        ours[f"{attn}qkv.bias"][16:32] = 0
        q, _, v = theirs.pop(f"{attn}qkv.bias").split(16)
        theirs |= {f"{attn}q_bias": q, f"{attn}v_bias": v}
    return ours, theirs


def pretrained() -> tuple[State, State]:
    """The encoder of a pretraining in timm's names, without fc_norm, and the whole file under VideoMAE's names."""
    ours, theirs = finetuned(classes=0)
    norm = {f"norm.{kind}": torch.randn(16) for kind in ("weight", "bias")}
    encoder = {key: value for key, value in theirs.items() if not key.startswith("fc_norm.")} | norm
    file = {f"encoder.{key}": value for key, value in encoder.items()}
    file |= {"mask_token": torch.zeros(1, 1, 8), "encoder_to_decoder.weight": torch.zeros(8, 16)}
    file |= {"decoder.blocks.0.attn.q_bias": torch.zeros(8), "decoder.head.weight": torch.zeros(4, 8)}
    file["decoder.norm.weight"] = torch.zeros(8)
    return {key: value for key, value in ours.items() if not key.startswith("fc_norm.")} | norm, file


@pytest.mark.parametrize("container", [None, "model", "module"])
def test_a_fine_tuned_file_fits_tensor_by_tensor_with_its_head(container: str | None, tmp_path: Path) -> None:
    ours, theirs = finetuned()
    path = tmp_path / "finetune.pth"
    torch.save(theirs if container is None else {container: theirs, "epoch": 3, "args": argparse.Namespace(a=1)}, path)
    model = create_backbone(NAME, checkpoint=path, num_classes=5, **MODEL)
    assert list(model.state_dict()) == list(create_backbone(NAME, num_classes=5, **MODEL).state_dict())
    assert_holds(model, ours)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "backbone.", "module."])
def test_a_file_of_videomae_v2_fits_under_its_prefixes_and_with_patches_of_14(prefix: str, tmp_path: Path) -> None:
    settings = {**MODEL, "img_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    like = create_backbone(NAME, num_classes=7, **settings).state_dict()
    ours = {key: torch.randn_like(value) for key, value in like.items()}
    theirs = dict(ours)
    for index in range(TINY["depth"]):
        attn = f"blocks.{index}.attn."
        ours[f"{attn}qkv.bias"][16:32] = 0
        q, _, v = theirs.pop(f"{attn}qkv.bias").split(16)
        theirs |= {f"{attn}q_bias": q, f"{attn}v_bias": v}
    torch.save({"module": {f"{prefix}{key}": value for key, value in theirs.items()}}, tmp_path / "vit_g.pth")
    assert_holds(create_backbone(NAME, checkpoint=tmp_path / "vit_g.pth", num_classes=7, **settings), ours)


def test_a_head_of_another_size_is_replaced_and_the_report_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = finetuned()
    torch.save({"model": theirs}, tmp_path / "finetune.pth")
    model: Any = create_backbone(NAME, checkpoint=tmp_path / "finetune.pth", num_classes=7, **MODEL)
    assert model.head.weight.shape == (7, 16)
    assert_holds(model, ours, but=("head.",))
    assert "VideoMAE or VideoMAE v2, encoder" in caplog.text
    assert "its head of 5 classes is dropped (wanted: 7)" in caplog.text
    assert "fresh: head of 7 classes" in caplog.text


def test_a_pretraining_file_loses_its_decoder_and_its_norm_to_a_fresh_fc_norm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, file = pretrained()
    torch.save({"model": file}, tmp_path / "pretrain.pth")
    with caplog.at_level(logging.INFO):
        model: Any = create_backbone(NAME, checkpoint=tmp_path / "pretrain.pth", **MODEL)
    found = model.state_dict()
    assert {key for key in found if key not in ours} == {"fc_norm.weight", "fc_norm.bias"}
    assert torch.equal(found["fc_norm.weight"], torch.ones(16))
    assert not found["fc_norm.bias"].any()
    assert all(torch.equal(found[key], value) for key, value in ours.items() if not key.startswith("norm."))
    assert "VideoMAE pretraining, encoder and decoder" in caplog.text
    assert "dropped: decoder (5 tensors): for pretraining only" in caplog.text
    assert "dropped: norm.* (2 tensors)" in caplog.text


def test_the_pretrained_norm_can_be_kept(tmp_path: Path) -> None:
    ours, file = pretrained()
    torch.save({"model": file}, tmp_path / "pretrain.pth")
    model = create_backbone(NAME, checkpoint=tmp_path / "pretrain.pth", fc_norm=False, **MODEL)
    assert_holds(model, ours)


def test_the_biases_are_those_of_queries_zeros_and_those_of_values(tmp_path: Path) -> None:
    _, theirs = finetuned()
    torch.save(theirs, tmp_path / "finetune.pth")
    model: Any = create_backbone(NAME, checkpoint=tmp_path / "finetune.pth", num_classes=5, **MODEL)
    q, k, v = model.blocks[1].attn.qkv.bias.split(16)
    assert torch.equal(q, theirs["blocks.1.attn.q_bias"])
    assert not k.any()
    assert torch.equal(v, theirs["blocks.1.attn.v_bias"])


def test_clips_are_normalised_as_videomae_does(tmp_path: Path) -> None:
    torch.save(finetuned()[1], tmp_path / "finetune.pth")
    config = input_config(create_backbone(NAME, checkpoint=tmp_path / "finetune.pth", **MODEL))
    assert (config["mean"], config["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (config["num_frames"], config["tubelet_size"]) == (4, 2)


def test_another_length_and_size_take_the_same_file(tmp_path: Path) -> None:
    ours, theirs = finetuned()
    torch.save(theirs, tmp_path / "finetune.pth")
    arguments = {**MODEL, "num_frames": 8, "img_size": (64, 32)}
    model = create_backbone(NAME, checkpoint=tmp_path / "finetune.pth", num_classes=5, **arguments)
    assert_holds(model, ours)
    assert model(torch.zeros(1, 3, 8, 64, 32)).shape == (1, 5)


@pytest.mark.parametrize("name", ["videomae_finetune", "adaptformer_video"])
def test_the_golden_files_load_and_videomae_gives_its_official_logits(name: str, shared: Path, tmp_path: Path) -> None:
    path = shared / "golden" / f"{name}.safetensors"
    golden = load_file(path)
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    state = {key.removeprefix("state/"): value for key, value in golden.items() if key.startswith("state/")}
    torch.save({"module": state}, tmp_path / "golden.pth")
    arguments = {**config["arch"], "num_frames": config["frames"], "tubelet_size": config["tubelet_size"]}
    model: Any = create_backbone(NAME, checkpoint=tmp_path / "golden.pth", num_classes=5, **arguments).eval()
    if name == "videomae_finetune":
        torch.testing.assert_close(model(golden["input"]), golden["logits"], rtol=0, atol=1e-5)
    else:  # the adapters belong to the method, the head is not one linear layer
        q, k, v = (state[f"blocks.2.attn.{part}_proj.weight"] for part in "qkv")
        assert torch.equal(model.blocks[2].attn.qkv.weight, torch.cat([q, k, v]))
        assert torch.equal(model.blocks[2].mlp.fc2.weight, state["blocks.2.fc2.weight"])
        assert torch.equal(model.fc_norm.weight, state["fc_norm.weight"])


def test_what_a_file_has_too_much_or_too_little_is_named(tmp_path: Path) -> None:
    _, theirs = finetuned()
    problems: list[tuple[State, str]] = [
        ({k: v for k, v in theirs.items() if k != "blocks.1.mlp.fc1.bias"}, r"blocks\.1\.mlp\.fc1\.bias"),
        ({k: v for k, v in theirs.items() if k != "blocks.0.attn.v_bias"}, r"lacks blocks\.0\.attn\.v_bias"),
        ({**theirs, "pos_embed": torch.zeros(1, 8, 16)}, "pos_embed"),
        ({**theirs, "blocks.2.norm1.weight": torch.zeros(16)}, r"blocks\.2\.norm1\.weight"),
        ({**pretrained()[1], "predictor.weight": torch.zeros(1)}, r"not of it: predictor\.weight"),
    ]
    for state, message in problems:
        torch.save({"model": state}, tmp_path / "broken.pth")
        with pytest.raises(ValueError, match=message):
            create_backbone(NAME, checkpoint=tmp_path / "broken.pth", num_classes=5, **MODEL)


def test_patches_over_another_number_of_frames_are_refused(tmp_path: Path) -> None:
    torch.save(finetuned()[1], tmp_path / "finetune.pth")
    with pytest.raises(ValueError, match=r"patches over 2 frames .*wanted tubelet_size=2, got 4"):
        create_backbone(NAME, checkpoint=tmp_path / "finetune.pth", **{**MODEL, "tubelet_size": 4})


@pytest.mark.parametrize("clip", [{}, {"num_frames": 4}], ids=repr)
def test_a_model_of_images_or_single_frames_refuses_a_video_checkpoint(clip: dict[str, Any], tmp_path: Path) -> None:
    torch.save(finetuned()[1], tmp_path / "finetune.pth")
    arguments = {key: value for key, value in MODEL.items() if key not in ("num_frames", "tubelet_size")}
    with pytest.raises(ValueError, match=r"is a video checkpoint.*give num_frames \(16, say\) and tubelet_size=2"):
        create_backbone(NAME, checkpoint=tmp_path / "finetune.pth", **arguments, **clip)


def test_video_weights_are_not_inflated(tmp_path: Path) -> None:
    torch.save(finetuned()[1], tmp_path / "finetune.pth")
    with pytest.raises(ValueError, match="inflate='average' is for weights of images"):
        create_backbone(NAME, checkpoint=tmp_path / "finetune.pth", inflate="average", **MODEL)
