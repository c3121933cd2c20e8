"""Folders of HF peft that are written: what peft itself and the reader here make of them, and what is refused."""

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from support.adapters import same
from support.families import BYPASSED, FAMILIES, images, randomise_tuned, tiny
from support.hf_peft_folders import TENSORS, WIDE, loaded_by_peft, read_back, written
from torch import nn

import vision_peft as vp

METHODS = [
    vp.LoRA(rank=2, alpha=3, targets=("qkv",)),
    vp.LoRA(rank=2, alpha=3, targets=("q", "v")),
    vp.LoRA(rank=2, alpha=3, targets=("v", "k", "q"), rslora=True),
    vp.LoRA(rank=2, alpha=3, targets=("k", "proj", "fc1", "fc2")),
    vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj", "fc2"), rslora=True),
    vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj"), dora=True),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("family", ["vit", "siglip", "swin", "eva02_base", "deit_distilled"])
def test_hf_peft_loads_what_we_write_to_the_same_logits(method, family, tmp_path):
    model = written(method, family, tmp_path)
    x = images(model)
    torch.testing.assert_close(loaded_by_peft(tmp_path, family)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [*METHODS, WIDE], ids=repr)
@pytest.mark.parametrize("family", ["vit", "siglip", "swin", "eva02_base", "deit_distilled"])
def test_we_read_what_we_write_to_the_same_logits(method, family, tmp_path):
    if method is WIDE and family == "swin":
        method = vp.LoRA(rank=8, targets=("q", "k", "v"))  # above the width 16 of its first stage
    model = written(method, family, tmp_path)
    x = images(model)
    torch.testing.assert_close(read_back(tmp_path, family)[0](x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dora", [False, True])
def test_hf_peft_computes_the_same_where_the_rows_of_a_fused_layer_go_head_by_head(dora, tmp_path):
    model = written(vp.LoRA(rank=2, alpha=3, targets=("k", "v"), dora=dora), "maxvit", tmp_path)
    x = images(model)
    torch.testing.assert_close(loaded_by_peft(tmp_path, "maxvit")(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_an_a_that_separate_projections_share_is_written_once_for_each(dora, tmp_path):
    model = written(vp.LoRA(rank=2, alpha=3, targets=("qkv", "fc2"), dora=dora), "rope_gqa", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / TENSORS)
    shared = model.get_parameter("blocks.1.attn.q_proj.lora.A")
    for letter in "qkv":
        assert torch.equal(tensors[f"base_model.model.blocks.1.attn.{letter}_proj.lora_A.weight"], shared)
    x = images(model)
    torch.testing.assert_close(loaded_by_peft(tmp_path, "rope_gqa")(x), model(x), rtol=1e-5, atol=1e-5)
    again, method = read_back(tmp_path, "rope_gqa")
    assert method == vp.LoRA(rank=2, alpha=3, targets=("qkv", "fc2"), dora=dora)
    assert torch.equal(again(x), model(x))


def test_a_shared_a_of_more_rows_than_the_keys_have_is_read_back(tmp_path):
    method = vp.LoRA(rank=20, alpha=3, targets=("qkv",))  # the one key head of this backbone has 16 channels
    model = written(method, "rope_gqa", tmp_path)
    again, found = read_back(tmp_path, "rope_gqa")
    assert found == method
    assert same(vp.tuned_state_dict(model), vp.tuned_state_dict(again))


@pytest.mark.parametrize("family", ["eva02_base", "rope_gqa"])
@pytest.mark.parametrize("targets", [("q", "k", "v"), ("q", "v")])
def test_separate_projections_with_an_a_each_are_read_as_such(family, targets, tmp_path):
    method = vp.LoRA(rank=2, alpha=3, targets=targets)
    model = written(method, family, tmp_path)
    again, found = read_back(tmp_path, family)
    x = images(model)
    assert found == method
    assert torch.equal(again(x), model(x))


def test_a_map_of_an_output_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="proj_output maps the output of a layer, HF peft's LoRA reads the input"):
        vp.write_foreign(vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=("q", "proj_output"))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batchnorm_head_is_written_as_the_linear_layer_it_folds_into(tmp_path):
    model: Any = vp.attach(vp.replace_head(tiny("vit"), "batchnorm_linear", 5), vp.LoRA(rank=2, targets=("qkv",)))
    randomise_tuned(model)
    nn.init.normal_(model.head[0].running_mean)
    nn.init.uniform_(model.head[0].running_var, 0.5, 2.0)
    x = images(model)
    expected = model.eval()(x)
    vp.write_foreign(model, tmp_path)
    torch.testing.assert_close(loaded_by_peft(tmp_path, "vit")(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(x), expected)


def test_without_a_head_none_is_written(tmp_path):
    model: Any = tiny("vit")
    model.reset_classifier(0)
    vp.write_foreign(vp.attach(model, vp.LoRA(rank=2, targets=("qkv",))), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] is None
    assert vp.read_foreign(tmp_path, "hf_peft").num_classes == 0


@pytest.mark.parametrize("family", BYPASSED)
def test_where_hf_peft_would_never_be_called_writing_is_refused(family, tmp_path):
    with pytest.raises(ValueError, match=r"reads qkv.weight without calling qkv, so that HF peft's update would never"):
        vp.write_foreign(vp.attach(tiny(family), vp.LoRA(rank=2)), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    written(vp.LoRA(rank=2, targets=("proj",)), family, tmp_path)


@pytest.mark.parametrize(
    ("methods", "got"),
    [((), "nothing"), ((vp.AdaptFormer(),), "AdaptFormer"), ((vp.LoRA(), vp.VPT()), "LoRA, VPT")],
    ids=str,
)
def test_only_one_lora_and_nothing_else_can_be_written(methods, got, tmp_path):
    model = tiny("vit")
    for method in methods:
        vp.attach(model, method)
    with pytest.raises(ValueError, match=f"wants a model with one LoRA, AdaLoRA or VeRA attached and .*, got {got}"):
        vp.write_foreign(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"unknown target 'hf_pef' \(did you mean hf_peft\?\)"):
        vp.write_foreign(tiny("vit"), tmp_path, target="hf_pef")


def test_every_family_that_calls_qkv_is_written_and_read_by_peft(tmp_path):
    for family in sorted(set(FAMILIES) - set(BYPASSED) - {"swin", "eva02_base"}):
        model = written(vp.LoRA(rank=2, targets=("q", "v", "fc1")), family, tmp_path / family)
        x = images(model)
        torch.testing.assert_close(loaded_by_peft(tmp_path / family, family)(x), model(x), rtol=1e-5, atol=1e-5)
