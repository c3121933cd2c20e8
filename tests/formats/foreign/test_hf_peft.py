"""Folders of HF peft that are read: golden parity, hostile and impossible folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.families import images, tiny
from support.hf_peft_folders import TENSORS, change_tensors, written
from timm.models import VisionTransformer
from torch import Tensor

import vision_peft as vp

GOLDEN = {
    "hf_peft_lora_qkv": vp.LoRA(rank=4, alpha=6, targets=("qkv",)),
    "hf_peft_lora_mlp": vp.LoRA(rank=4, alpha=6, targets=("fc1", "fc2")),
    "hf_peft_rslora_qkv": vp.LoRA(rank=4, alpha=6, targets=("qkv",), rslora=True),
    "hf_peft_dora_qkv": vp.LoRA(rank=4, alpha=6, targets=("qkv",), dora=True),
}
OURS = {
    "base_model.model.": "",
    "lora_A.default.weight": "lora.A",
    "lora_B.default.weight": "lora.B",
    "lora_magnitude_vector.default.weight": "lora.magnitude",
    "modules_to_save.default.": "",
}


def golden_model(tensors: dict[str, Tensor]) -> Any:
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=5)
    model.load_state_dict({n.removeprefix("base/"): t for n, t in tensors.items() if n.startswith("base/")})
    return model.eval()


def test_no_golden_folder_is_left_out(shared):
    assert {path.name for path in (shared / "golden").glob("hf_peft_*")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_hf_peft(name, shared):
    folder = shared / "golden" / name
    tensors = safetensors.torch.load_file(folder / "golden.safetensors")
    foreign = vp.read_foreign(folder, "hf_peft")
    assert foreign.method == GOLDEN[name]
    assert (foreign.backbone, foreign.num_classes, foreign.head) == (None, 5, "linear")
    model = vp.attach(golden_model(tensors), GOLDEN[name])
    vp.load_tuned(model, foreign.tuned)
    logits = model(tensors["input"])
    assert (logits - tensors["logits"]).abs().max() <= 1e-5
    torch.nn.functional.cross_entropy(logits, tensors["target"]).backward()
    theirs: dict[str, Tensor] = {}
    for key, gradient in tensors.items():
        if key.startswith("grad/"):
            for their_part, our_part in OURS.items():
                key = key.replace(their_part, our_part)
            theirs[key.removeprefix("grad/")] = gradient
    ours = {name: p.grad for name, p in vp.tuned_parameters(model)}
    assert ours.keys() == theirs.keys()
    for key, gradient in ours.items():
        assert gradient is not None
        assert (gradient - theirs[key]).norm() <= 1e-4 * theirs[key].norm(), key


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"rank_pattern": {"blocks.1.mlp.fc1": 4}}, {"rank_pattern": {"blocks.1.mlp.fc1": 4}}),
        (
            {"rank_pattern": {"blocks.1.mlp.fc1": 4}, "alpha_pattern": {"blocks.1.mlp.fc1": 8}},
            {"rank_pattern": {"blocks.1.mlp.fc1": 4}, "alpha_pattern": {"blocks.1.mlp.fc1": 8}},
        ),
        (
            {"alpha_pattern": {r"\d\.(mlp|norm)\.fc.": 6, "fc1": 9}},
            {"alpha_pattern": {"blocks.0.mlp.fc1": 6, "blocks.1.mlp.fc1": 6}},
        ),
        ({"exclude_modules": ["blocks.0.mlp.fc1"]}, {"rank_pattern": {"blocks.0.mlp.fc1": 0}}),
    ],
    ids=str,
)
def test_sizes_of_a_layer_of_its_own_are_read_as_patterns(settings, fields, tmp_path):
    peft: Any = pytest.importorskip("peft", reason="needs peft, of the extra test")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["qkv", "fc1"], init_lora_weights=False, **settings)
    theirs = peft.get_peft_model(tiny("vit"), config).eval()
    theirs.save_pretrained(tmp_path)
    foreign = vp.read_foreign(tmp_path, "hf_peft")
    assert foreign.method == vp.LoRA(rank=2, alpha=4, targets=("qkv", "fc1"), **fields)
    ours = foreign.put_on(tiny("vit"))
    x = images(ours)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_of_hf_peft_that_give_every_layer_the_same_size_are_read(rslora, tmp_path):
    peft: Any = pytest.importorskip("peft", reason="needs peft, of the extra test")
    config = peft.LoraConfig(
        r=8,
        lora_alpha=9,
        target_modules=["qkv", "fc1"],
        rank_pattern={"attn.qkv": 2, r"fc1": 2},
        alpha_pattern={"blocks.0.attn.qkv": 4, "qkv": 4, "mlp.fc1": 4},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(tiny("vit"), config).eval()
    theirs.save_pretrained(tmp_path)
    ours = vp.attach(tiny("vit"), vp.LoRA(rank=2, alpha=4, targets=("qkv", "fc1"), rslora=rslora))
    foreign = vp.read_foreign(tmp_path, "hf_peft")
    assert foreign.method == vp.LoRA(rank=2, alpha=4, targets=("qkv", "fc1"), rslora=rslora)
    vp.load_tuned(ours, foreign.tuned, head="keep")
    x = images(ours)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.fixture
def folder(tmp_path):
    written(vp.LoRA(rank=2, targets=("qkv",)), "vit", tmp_path / "adapter")
    return tmp_path / "adapter"


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"peft_type": "IA3"}, "cannot read a HF peft adapter of type 'IA3': wanted LORA"),
        ({"bias": "all"}, "settings that LoRA here does not have: bias='all'"),
        ({"layer_replication": [[0, 2]], "bias": "all"}, r"bias='all', layer_replication=\[\[0, 2\]\]"),
        ({"rank_pattern": {"qkv": 4}}, "says r=4 for blocks.0.attn.qkv, its tensors have rank 2"),
        ({"rank_pattern": {"qkv": "4"}}, "rank must"),
        ({"rank_pattern": [4]}, r"rank_pattern in adapter_config.json must map names of layers to numbers; got \[4\]"),
        ({"alpha_pattern": {"qkv": -1}}, "alpha must"),
        ({"alpha_pattern": {"(a+)+b": 4}}, r"must name layers, by a regular expression of .*; got '\(a\+\)\+b'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
        ({"r": 3}, "adapter_config.json says r=3 for blocks.0.attn.qkv, its tensors have rank 2"),
        ({"lora_alpha": "six"}, "alpha must"),
    ],
    ids=str,
)
def test_a_config_that_is_no_plain_lora_is_refused(values, reason, folder):
    change_config(folder, **values)
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("name", ["adapter_config.json", TENSORS])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no HF peft adapter at .*: {name} is missing"):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "3"])
def test_a_config_that_is_no_object_is_refused(text, folder):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not JSON|records its method in adapter_config.json"):
        vp.read_foreign(folder, "hf_peft")


def test_tensors_without_their_config_are_refused(folder):
    with pytest.raises(ValueError, match=r"records its method in adapter_config.json: pass the folder"):
        vp.read_foreign(folder / TENSORS, "hf_peft")


@pytest.mark.parametrize(
    "key",
    ["base_model.model.cls_token", "base_model.model.norm.weight", "base_model.model.blocks.0.x"],
)
def test_tensors_that_nothing_explains_are_named(key, folder):
    change_tensors(folder, lambda tensors: tensors.update({key: torch.zeros(2, 2)}))
    with pytest.raises(ValueError, match=f"cannot explain {key.removeprefix('base_model.model.')}"):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("shape", [(), (2,), (0, 32), (2, 32, 1, 1)])
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_factors_that_are_no_matrices_are_refused(part, shape, folder):
    key = f"blocks.0.attn.qkv.{part}.weight"
    change_tensors(folder, lambda tensors: tensors.update({f"base_model.model.{key}": torch.zeros(shape)}))
    with pytest.raises(ValueError, match=f"shape of {key}: wanted"):
        vp.read_foreign(folder, "hf_peft")


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_half_a_pair_is_refused_with_its_layer(part, folder):
    change_tensors(folder, lambda tensors: tensors.pop(f"base_model.model.blocks.1.attn.qkv.{part}.weight"))
    with pytest.raises(ValueError, match=r"lora_A or lora_B is missing for blocks\.1\.attn\.qkv"):
        vp.read_foreign(folder, "hf_peft")


def test_a_head_alone_is_no_lora(folder):
    change_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "lora" in name])
    with pytest.raises(ValueError, match="no lora_A in any block"):
        vp.read_foreign(folder, "hf_peft")


def test_the_older_pickle_of_tensors_is_read_too(folder):
    tensors = safetensors.torch.load_file(folder / TENSORS)
    torch.save(tensors, folder / "adapter_model.bin")
    expected = vp.read_foreign(folder, "hf_peft").tuned
    (folder / TENSORS).unlink()
    found = vp.read_foreign(folder, "hf_peft").tuned
    assert found.keys() == expected.keys()


def test_a_folder_is_nothing_that_the_other_sources_save(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        vp.read_foreign(tmp_path / "copy", "ssf")
