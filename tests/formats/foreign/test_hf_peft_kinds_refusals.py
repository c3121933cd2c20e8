"""Folders of HF peft's kinds of LoRA, AdaLoRA and VeRA that were changed: what is still read, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hf_peft_folders import TENSORS, change_tensors
from support.peft_golden import golden_model, read_golden

import vision_peft as vp
from vision_peft.tuning import record


@pytest.fixture
def copied(shared, tmp_path):
    def copy(name: str) -> Path:
        return Path(shutil.copytree(shared / "golden" / name, tmp_path / name))

    return copy


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.chmod(0o600)
    (folder / TENSORS).chmod(0o600)
    folder.chmod(0o700)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        (
            "peft_pissa_qkv",
            {"init_lora_weights": "pissa_niter_4"},
            r"'pissa_niter_4' took a randomised SVD off .* repeat",
        ),
        (
            "peft_pissa_qkv",
            {"init_lora_weights": "corda"},
            "settings that LoRA here does not have: init_lora_weights='co",
        ),
        ("peft_all_linear", {"init_lora_weights": "pissa"}, "on the head, whose weights this folder does not hold"),
        ("peft_adalora_allocated", {"rank_pattern": [1]}, "must map names of tensors to lists of booleans"),
        (
            "peft_adalora_allocated",
            {"rank_pattern": {"blocks.0.attn.qkv.lora_E": [True]}},
            "must hold 5 booleans for bl",
        ),
        (
            "peft_adalora_allocated",
            {"rank_pattern": None},
            r"shape of blocks.0.attn.qkv.lora_A: wanted \(5, any\), got \(1",
        ),
        ("peft_adalora", {"init_r": 4}, r"shape of .*: wanted \(4, any\), got \(5, 40\)"),
        ("peft_adalora", {"beta1": "x"}, "beta1 must be a finite number"),
        ("peft_adalora", {"total_step": 8, "tinit": 9}, r"warmup must lie in \[0, 1\)"),
        ("peft_vera_all", {"r": 0}, "rank must be a number above 0"),
        ("peft_vera_all", {"projection_prng_key": -1}, "seed must be a whole number from 0; got -1"),
        ("peft_vera_all", {"peft_type": "LOHA"}, "of type 'LOHA': wanted LORA, ADALORA, VERA"),
    ],
)
def test_a_config_that_cannot_be_is_refused(name, values, reason, copied):
    folder = copied(name)
    change_config(folder, **values)
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize(
    ("name", "drop", "reason"),
    [
        ("peft_adalora", "blocks.0.attn.qkv.lora_E", "has only A, B"),
        (
            "peft_adalora",
            "blocks.1.mlp.fc2",
            "on the same layers of all its blocks; this adapter has nothing on blocks.1.mlp",
        ),
        (
            "peft_vera_all",
            "blocks.1.mlp.fc2",
            "on the same layers of all its blocks; this adapter has nothing on blocks.1.mlp",
        ),
        ("peft_vera_qkv", "vera_B", "it holds one of vera_A and vera_B"),
        ("peft_vera_qkv", "vera_lambda", "no vera_lambda_b in any block"),
        ("peft_adalora", "lora_", "no lora_E in any block"),
        ("peft_patterns", "blocks.0.attn.proj.lora_A", "lora_A or lora_B is missing for blocks.0.attn.proj"),
    ],
)
def test_a_file_that_lacks_something_is_refused(name, drop, reason, copied):
    folder = copied(name)
    change_config(folder)
    change_tensors(folder, lambda tensors: [tensors.pop(key) for key in list(tensors) if drop in key])
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize(
    "expression", ["(a+)+b", "(x|y){9}", "a*b*c*d*e", "[^a]", "\\1", "(?=a)", "a" * 301, "(a", "a++"]
)
def test_an_expression_that_might_take_for_ever_is_refused(expression, copied):
    folder = copied("peft_patterns")
    change_config(folder, alpha_pattern={expression: 3})
    with pytest.raises(
        ValueError, match=r"alpha_pattern in adapter_config.json.*(must name layers|not a regular express)"
    ):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize(
    "expression",
    [
        r"blocks\.\d+\.attn\.qkv",
        r".*\.[01]\.attn\.(qkv|proj)",
        r"(.*\.)?qkv",
        "attn.qkv",
        r"^blocks\.0\..*qkv$",
        r"qk\w",
    ],
)
def test_usual_expressions_are_read(expression, copied):
    folder = copied("peft_patterns")
    change_config(folder, alpha_pattern={expression: 3})
    found: Any = vp.read_foreign(folder, "hf_peft").method
    assert found.size_of("blocks.0.attn.qkv")[1] == 3
    assert found.size_of("patch_embed.proj")[1] == 6


def test_a_name_too_long_for_an_expression_is_refused(copied):
    folder = copied("peft_patterns")
    change_config(folder, alpha_pattern={".*a.*a.*b": 3})
    long = {f"base_model.model.{'a' * 10_000}.lora_{part}.weight": torch.zeros(4, 4) for part in "AB"}
    change_tensors(folder, lambda tensors: tensors.update(long))
    with pytest.raises(ValueError, match="a layer's name of 10000 characters is not one of timm's"):
        vp.read_foreign(folder, "hf_peft")


def test_a_layer_that_kept_no_row_is_read(copied):
    folder, name = copied("peft_adalora_allocated"), "blocks.1.attn.qkv.lora_"
    pattern = json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]
    change_config(folder, rank_pattern={**pattern, f"{name}E": [False] * 5})
    shapes = {"A": (0, 40), "E": (0, 1), "B": (120, 0)}
    empty = {f"base_model.model.{name}{part}": torch.zeros(shape) for part, shape in shapes.items()}
    change_tensors(folder, lambda tensors: tensors.update(empty))
    foreign = vp.read_foreign(folder, "hf_peft")
    assert not any(foreign.tuned[f"blocks.1.attn.qkv.adalora.{part}"].any() for part in "AEB")
    foreign.put_on(golden_model(read_golden(folder)))


def test_a_head_that_was_updated_needs_the_head(copied):
    foreign = vp.read_foreign(copied("peft_all_linear"), "hf_peft")
    assert foreign.num_classes == 0
    model = golden_model(read_golden(copied("peft_vera_qkv")))
    model.reset_classifier(7)
    with pytest.raises(ValueError, match=r"wanted a model with head.weight of shape \(5, 40\), got \(7, 40\)"):
        foreign.put_on(model)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match=r"head.weight of shape \(5, 40\), got none"):
        foreign.put_on(model)
    assert record.find(model) is None


def test_norms_are_read_only_where_they_were_saved_as_modules(copied):
    folder = copied("peft_patterns")
    change_config(folder, modules_to_save=["head"])
    with pytest.raises(ValueError, match=r"cannot explain norm.bias, norm.weight"):
        vp.read_foreign(folder, "hf_peft")
