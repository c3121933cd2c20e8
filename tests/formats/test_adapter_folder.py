"""The adapter folder: what it holds, what it refuses, and that a failed save or load leaves everything as it was."""

import dataclasses
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from support.adapters import LORA, same, tuned_model
from support.families import FAMILIES, images, tiny

import vision_peft as vp
from vision_peft.formats import read_adapter_info
from vision_peft.formats.adapter_info import AdapterInfo

TENSORS, INFO = "adapter.safetensors", "adapter.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vp.save_adapter(tuned_model(), tmp_path / "adapter")


def test_the_folder_holds_the_tuned_tensors_and_nothing_else(folder):
    assert sorted(path.name for path in folder.iterdir()) == [INFO, TENSORS]
    model = tuned_model()
    state = safetensors.torch.load_file(folder / TENSORS)
    assert same(state, dict(vp.tuned_state_dict(model)))
    values = 4 * sum(tensor.numel() for tensor in state.values())
    size = (folder / TENSORS).stat().st_size
    described = 2 * (folder / INFO).stat().st_size  # the metadata repeats it, quoted
    assert values < size < values + 200 * (len(state) + 1) + described, "a header beside the values"
    assert size < 0.3 * 4 * sum(p.numel() for p in tiny("vit").parameters())


def test_the_json_tells_all_that_a_stranger_needs(tmp_path):
    model = tuned_model("dinov2_reg4", vp.LoRA(rank=2), vp.VPT(tokens=3), head="batchnorm_linear")
    names = ["cat", "dog", "Ærøskøbing", "狗", "bird"]
    config = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": (28, 28), "interpolation": "bicubic"}
    folder = vp.save_adapter(model, tmp_path, class_names=names, input_config=config)
    written = json.loads((folder / INFO).read_text(encoding="utf-8"))
    assert set(written) == {field.name for field in dataclasses.fields(AdapterInfo)} - {"task"}
    variants = {"rslora": False, "dora": False, "init": "kaiming"}
    assert written["methods"] == [
        {"name": "lora", "fields": {"rank": 2, "alpha": 8, "dropout": 0.0, "targets": ["q", "v"], **variants}},
        {"name": "vpt", "fields": {"tokens": 3, "deep": True, "dropout": 0.0, "project": None}},
    ]
    assert written["format_version"] == 3
    assert (written["head"], written["num_classes"], written["class_names"]) == ("batchnorm_linear", 5, names)
    assert written["input"] == {**config, "mean": [0.5] * 3, "std": [0.5] * 3, "size": [28, 28]}
    assert written["counts"] == vp.count_parameters(model)._asdict()
    assert written["backbone"]["name"] == "vit_small_patch14_reg4_dinov2.lvd142m"
    assert written["backbone"]["license"] == "apache-2.0"
    assert written["backbone"]["arguments"] is None  # timm.create_model made it
    assert written["backbone"]["architecture"]["depth"] == 2
    assert re.fullmatch("[0-9a-f]{64}", written["fingerprint"])
    info = read_adapter_info(folder)
    assert (info.class_names, info.num_classes) == (names, 5)


def test_the_fingerprint_is_of_the_weights_at_first_attach(tmp_path):
    plain = vp.save_adapter(tuned_model("vit", LORA), tmp_path / "a")
    full = tuned_model("vit", vp.FullFineTune())
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.mul_(1.5)
    fine_tuned = vp.save_adapter(full, tmp_path / "b")
    assert read_adapter_info(plain).fingerprint == read_adapter_info(fine_tuned).fingerprint
    x = images(full)
    assert torch.equal(vp.load_adapter(tiny("vit"), fine_tuned)(x), full(x))


STACK = (vp.LoRA(rank=2), vp.VPT(tokens=3), vp.AdaptFormer(bottleneck=4, scale="learnable"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["linear", "batchnorm_linear"])
def test_stacked_methods_and_either_head_come_back_bit_for_bit(family, head, tmp_path):
    model = tuned_model(family, *STACK, head=head)
    fresh = vp.load_adapter(tiny(family), vp.save_adapter(model, tmp_path))
    x = images(model)
    assert torch.equal(fresh(x), model(x))
    assert same(dict(vp.tuned_state_dict(fresh)), dict(vp.tuned_state_dict(model)))
    assert [n for n, _ in vp.tuned_parameters(fresh)] == [n for n, _ in vp.tuned_parameters(model)]
    vp.detach(fresh)
    plain = tiny(family)
    assert {n: type(m) for n, m in fresh.named_modules()} == {n: type(m) for n, m in plain.named_modules()}


def test_batchnorm_statistics_are_saved(tmp_path):
    model: Any = tuned_model("vit", LORA, head="batchnorm_linear")
    vp.train_mode(model)
    model(images(model, batch=8))
    model.eval()
    fresh: Any = vp.load_adapter(tiny("vit"), vp.save_adapter(model, tmp_path))
    assert torch.equal(fresh.head[0].running_mean, model.head[0].running_mean)
    assert fresh.head[0].num_batches_tracked == 1
    assert torch.equal(fresh(images(model)), model(images(model)))


@pytest.mark.parametrize("head", ["linear", "batchnorm_linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loading_onto_a_headless_backbone_builds_the_head(family, head, tmp_path):
    model = tuned_model(family, head=head)
    folder = vp.save_adapter(model, tmp_path)
    fresh: Any = tiny(family)
    fresh.reset_classifier(0)
    vp.load_adapter(fresh, folder)
    assert fresh.num_classes == 5
    assert torch.equal(fresh(images(model)), model(images(model)))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_without_a_head_goes_onto_a_headless_backbone(family, tmp_path):
    model, fresh = tiny(family), tiny(family)
    for each in (model, fresh):
        each.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    folder = vp.save_adapter(vp.attach(model, vp.VPT(tokens=2)), tmp_path)
    assert read_adapter_info(folder).num_classes == 0
    vp.load_adapter(fresh, folder)
    assert torch.equal(fresh(images(model)), model(images(model)))
    with pytest.raises(ValueError, match=r"has no head, the model has one of 5 classes: pass head='keep' .* or"):
        vp.load_adapter(tiny(family), folder)


def test_keeping_the_head_serves_another_class_count(folder):
    model: Any = vp.replace_head(tiny("vit"), "linear", 9)
    head = model.head.weight.clone()
    vp.load_adapter(model, folder, head="keep")
    assert torch.equal(model.head.weight, head)
    assert model(images(model)).shape == (2, 9)
    state = safetensors.torch.load_file(folder / TENSORS)
    assert torch.equal(model.get_parameter("blocks.0.attn.qkv.lora.q.B"), state["blocks.0.attn.qkv.lora.q.B"])


def test_loading_keeps_the_mode_of_the_model(folder):
    assert not any(module.training for module in vp.load_adapter(tiny("vit").eval(), folder).modules())
    assert all(module.training for module in vp.load_adapter(tiny("vit").train(), folder).modules())


# L10
def test_another_image_size_is_the_same_backbone_with_a_warning(folder, recwarn):
    vp.load_adapter(tiny("vit"), folder)
    assert not list(recwarn)
    torch.manual_seed(0)
    larger: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    )
    blocks = {n: t for n, t in tiny("vit").state_dict().items() if n != "pos_embed"}
    larger.load_state_dict(blocks, strict=False)
    with pytest.warns(UserWarning, match=r"at 32 x 32 pixels, the model takes 48 x 48.*img_size=\(32, 32\)") as found:
        vp.load_adapter(larger, folder)
    assert len(found) == 1
    assert larger(torch.zeros(1, 3, 48, 48)).shape == (1, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_adapter_of_a_model_in_another_precision_keeps_its_values(dtype, tmp_path):
    model = tuned_model().to(dtype)
    folder = vp.save_adapter(model, tmp_path)
    state = safetensors.torch.load_file(folder / TENSORS)
    assert {tensor.dtype for tensor in state.values()} == {dtype}
    fresh = vp.load_adapter(tiny("vit"), folder)
    loaded = vp.tuned_state_dict(fresh)
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in state.items())


def test_an_older_adapter_is_replaced_and_other_files_stay(folder):
    (folder / "notes.txt").write_text("mine")
    newer = tuned_model("vit", vp.AdaptFormer(bottleneck=4))
    assert vp.save_adapter(newer, folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == [INFO, TENSORS, "notes.txt"]
    assert (folder / "notes.txt").read_text() == "mine"
    x = images(newer)
    assert torch.equal(vp.load_adapter(tiny("vit"), folder)(x), newer(x))


@pytest.mark.parametrize("call", [1, 2], ids=["tensors", "json"])
def test_a_save_on_a_full_disk_leaves_the_older_adapter_and_no_debris(folder, call, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = []

    def full_disk(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        vp.save_adapter(tuned_model("vit", vp.AdaptFormer(bottleneck=4)), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_value_that_json_cannot_hold_is_an_error_before_anything_is_written(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="nan"):
        vp.save_adapter(tuned_model(), folder, input_config={"mean": float("nan")})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_plain_model_cannot_be_saved_as_an_adapter(tmp_path):
    with pytest.raises(ValueError, match=r"call attach\(model, method\) before save_adapter"):
        vp.save_adapter(tiny("vit"), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_the_number_of_class_names_must_be_that_of_classes(tmp_path):
    with pytest.raises(ValueError, match="got 2 class names for a head of 5 classes"):
        vp.save_adapter(tuned_model(), tmp_path / "adapter", class_names=["cat", "dog"])
    assert not (tmp_path / "adapter").exists()
