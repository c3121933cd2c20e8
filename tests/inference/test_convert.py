"""Files of official code become adapter folders that `vp.load` makes models of, with the official logits."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.adapters import change_info
from support.official_tuned import official_adaptformer
from support.tuned_folders import save_tuned
from torch import Tensor

import vision_peft as vp
from vision_peft.formats.foreign import ssf
from vision_peft.formats.foreign.key_map import read_mapped
from vision_peft.formats.foreign.read import Foreign
from vision_peft.inference.convert import convert_foreign, convert_to

CLIP: dict[str, Any] = {"img_size": 32, "num_frames": 4}
GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {  # files that hold a backbone too
    "adaptformer_image": ("adaptformer", {}),
    "adaptformer_image_global_pool": ("adaptformer", {}),
    "adaptformer_video": ("adaptformer", CLIP),
    "vpt_deep": ("vpt", {}),
    "ssf_vit_layerscale": ("ssf", {}),
    "videomae_finetune": ("videomae", CLIP),
    "aim_vit_clip": ("aim", {"scale": 0.5}),
    "st_adapter_k333": ("st_adapter", {"num_frames": 4}),
}
BARE = {"name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}


def read_golden(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The official state of a golden file, and all its tensors."""
    tensors = safetensors.torch.load_file(path)
    return {name.removeprefix("state/"): t for name, t in tensors.items() if name.startswith("state/")}, tensors


@pytest.mark.parametrize("name", GOLDEN)
def test_a_file_with_its_backbone_gives_a_folder_that_stands_alone(name: str, shared: Path, tmp_path: Path) -> None:
    source, given = GOLDEN[name]
    state, golden = read_golden(shared / "golden" / f"{name}.safetensors")
    # as training code saves it: under DistributedDataParallel, beside its arguments
    saved = {"model": {f"module.{key}": tensor for key, tensor in state.items()}, "args": argparse.Namespace(lr=1)}
    torch.save(saved, tmp_path / "checkpoint.pth")
    done = convert_foreign(tmp_path / "checkpoint.pth", tmp_path / "out", source, num_heads=2, **given)
    assert done.files == ["adapter.json", "adapter.safetensors", "backbone.safetensors"]
    (tmp_path / "out").rename(tmp_path / "moved")
    model = vp.load(tmp_path / "moved", device="cpu")
    with torch.no_grad():
        assert (model(golden["input"]) - golden["logits"]).abs().max() < 1e-5
    assert {name for theirs in done.keys.made_of.values() for name in theirs} | {*done.keys.dropped} == state.keys()


def test_the_map_names_what_was_joined_and_what_was_dropped(tmp_path: Path) -> None:
    state = official_adaptformer()
    done = convert_foreign(_save(state, tmp_path), tmp_path / "out", "adaptformer", num_heads=2)
    lines = done.keys.lines()
    assert lines[0] == (
        "blocks.*.attn.q_proj.weight + blocks.*.attn.k_proj.weight + blocks.*.attn.v_proj.weight -> "
        "blocks.*.attn.qkv.weight (2 times)"
    )
    assert "blocks.*.fc1.bias -> blocks.*.mlp.fc1.bias (2 times)" in lines
    assert (
        lines[-1] == f"{sum(theirs == (ours,) for ours, theirs in done.keys.made_of.items())} tensors keep their names"
    )
    assert done.keys.dropped == ()


def test_a_tensor_that_nothing_is_made_of_is_dropped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssf, "read", lambda state: Foreign(None, None, {"head.bias": state["b"].T.flatten() * 2}))
    foreign, keys = read_mapped({"module.b": torch.ones(2, 1), "epoch": torch.tensor(3)}, "ssf")
    assert (keys.made_of, keys.dropped) == ({"head.bias": ("b",)}, ("epoch",))
    assert (type(foreign.tuned["head.bias"]), foreign.tuned["head.bias"].tolist()) == (Tensor, [2, 2])


def _save(state: dict[str, Tensor], folder: Path) -> Path:
    safetensors.torch.save_file(state, folder / "file.safetensors")
    return folder / "file.safetensors"


def test_a_file_without_a_backbone_goes_on_the_one_that_is_named(shared: Path, tmp_path: Path) -> None:
    state, golden = read_golden(shared / "golden" / "convpass.safetensors")
    _save(state, tmp_path)
    backbone = {
        name.removeprefix("base/"): t for name, t in golden.items() if name.startswith("base/") and "head" not in name
    }
    safetensors.torch.save_file(backbone, tmp_path / "vit.safetensors")
    given = {**BARE, "checkpoint": tmp_path / "vit.safetensors"}
    done = convert_foreign(tmp_path / "file.safetensors", tmp_path / "out", "convpass", backbone=given, scale=0.5)
    assert done.files == ["adapter.json", "adapter.safetensors"]
    model = vp.load(tmp_path / "out", device="cpu", checkpoint=tmp_path / "vit.safetensors")
    with torch.no_grad():
        assert (model(golden["input"]) - golden["logits"]).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"holds no backbone: give the one .* backbone\.name=NAME"):
        convert_foreign(tmp_path / "file.safetensors", tmp_path / "other", "convpass", scale=0.5)
    assert not (tmp_path / "other").exists()


def test_a_backbone_that_is_named_has_to_be_that_of_the_file(tmp_path: Path) -> None:
    file = _save(official_adaptformer(), tmp_path)
    convert_foreign(file, tmp_path / "out", "adaptformer", num_heads=2)
    weights = tmp_path / "out" / "backbone.safetensors"
    same = {"name": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "img_size": 8}
    same |= {"checkpoint": weights}
    done = convert_foreign(file, tmp_path / "named", "adaptformer", num_heads=2, backbone=same)
    assert done.files == ["adapter.json", "adapter.safetensors"]
    other = safetensors.torch.load_file(weights)
    other["blocks.1.mlp.fc1.bias"] += 1
    safetensors.torch.save_file(other, tmp_path / "other.safetensors")
    given = {**same, "checkpoint": tmp_path / "other.safetensors"}
    with pytest.raises(ValueError, match=r"has other weights than the file \(blocks\.1\.mlp\.fc1\.bias and 0 more\)"):
        convert_foreign(file, tmp_path / "wrong", "adaptformer", num_heads=2, backbone=given)
    assert not (tmp_path / "wrong").exists()


def test_heads_that_the_file_does_not_tell_are_asked_for(tmp_path: Path) -> None:
    file = _save(official_adaptformer(dim=192), tmp_path)
    with pytest.raises(ValueError, match=r"give num_heads=\.\.\., 3 in timm's ViT of width 192"):
        convert_foreign(file, tmp_path / "out", "adaptformer")


def test_what_is_written_for_hf_peft_comes_back_the_same(tmp_path: Path) -> None:
    adapter = save_tuned(tmp_path / "adapter", vp.LoRA(rank=2, targets=("qkv", "fc1")), seeded=True)
    model = vp.load(adapter, device="cpu")
    done = convert_to(model, tmp_path / "peft", "hf_peft")
    assert {path.name for path in (tmp_path / "peft").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert done.keys.made_of["blocks.0.attn.qkv.lora.A"] == ("base_model.model.blocks.0.attn.qkv.lora_A.weight",)
    recorded = json.loads((adapter / "adapter.json").read_text())["backbone"]
    torch.manual_seed(recorded["arguments"]["seed"])
    backbone = {"name": recorded["name"], "img_size": 32, **recorded["arguments"]}
    backbone = {**{key: value for key, value in backbone.items() if key != "seed"}, "pretrained": False}
    convert_foreign(tmp_path / "peft", tmp_path / "back", "hf_peft", backbone=backbone)
    again = vp.load(tmp_path / "back", device="cpu")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    vpt = vp.load(save_tuned(tmp_path / "vpt", vp.VPT(tokens=2)), device="cpu")
    with pytest.raises(ValueError, match="wants a model with one LoRA, AdaLoRA or VeRA attached"):
        convert_to(vpt, tmp_path / "no", "hf_peft")
    assert not (tmp_path / "no").exists()


def test_a_link_in_the_place_of_the_weights_beside_is_not_followed(tmp_path: Path) -> None:
    convert_foreign(_save(official_adaptformer(), tmp_path), tmp_path / "out", "adaptformer", num_heads=2)
    weights = tmp_path / "out" / "backbone.safetensors"
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"came from the file 'backbone\.safetensors': give it as checkpoint=FILE"):
        vp.load(tmp_path / "out", device="cpu")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link, wanted a file"):
        vp.load(tmp_path / "out", device="cpu")


def test_weights_beside_lift_no_bound(tmp_path: Path) -> None:
    convert_foreign(_save(official_adaptformer(), tmp_path), tmp_path / "out", "adaptformer", num_heads=2)
    change_info(tmp_path / "out", lambda info: info["backbone"]["arguments"].update(embed_dim=2048))
    with pytest.raises(ValueError, match=r"has [\d,]+ parameters, the adapter records 2,\d\d\d of its backbone"):
        vp.load(tmp_path / "out", device="cpu")


@pytest.mark.parametrize("kind", ["regression", "ordinal", "multilabel", "classes"])
def test_what_a_folder_for_hf_peft_cannot_hold_is_said(kind: str, tmp_path: Path) -> None:
    tasks: dict[str, tuple[Any, str]] = {
        "regression": (
            {"kind": "regression", "mean": [1, 2, 3], "std": [1, 2, 1], "unit": "mm"},
            'output * std + mean; a folder for hf_peft lacks the task {"kind": "regression", "mean": [1, 2, 3], '
            '"std": [1, 2, 1], "unit": "mm"}',
        ),
        "ordinal": ({"kind": "ordinal"}, "one logit fewer than there are grades (CORN)"),
        "multilabel": ({"kind": "multilabel", "thresholds": [0.1, 0.2, 0.3]}, '"thresholds": [0.1, 0.2, 0.3]'),
        "classes": (None, "its probabilities are softmax(logits / 1.5); a folder for hf_peft lacks the temperature"),
    }
    task, words = tasks[kind]
    adapter = save_tuned(tmp_path / "adapter", task=task, temperature=None if task else 1.5)
    model = vp.load(adapter, device="cpu")
    if kind == "ordinal":
        model.adapter_info = dataclasses.replace(model.adapter_info, class_names=["1", "2", "3", "4"])
    (note,) = convert_to(model, tmp_path / "peft", "hf_peft").notes
    assert words in note
