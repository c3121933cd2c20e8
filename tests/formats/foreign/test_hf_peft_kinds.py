"""What HF peft saves of every kind of LoRA, AdaLoRA and VeRA: read to its logits and gradients, and written back."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.families import images, randomise_tuned, tiny
from support.hf_peft_folders import TENSORS, loaded_by_peft
from support.peft_golden import by_our_names, golden_model, read_golden
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning import record
from vision_peft.tuning.state import tuned_parameters

QKV: dict[str, Any] = {"rank": 4, "alpha": 6, "targets": ("qkv",)}
EVA = {f"blocks.{i}.{name}": (3, 5)[i] for i in range(2) for name in ("attn.qkv", "mlp.fc1")}
GOLDEN: dict[str, vp.Method] = {
    "peft_all_linear": vp.LoRA(rank=2, alpha=4, targets=("qkv", "proj", "fc1", "fc2")),
    "peft_eva_qkv_fc1": vp.LoRA(
        rank=3,
        alpha=4.5,
        targets=("qkv", "fc1"),
        rank_pattern={name: 5 for name in EVA if name.startswith("blocks.1")},
        alpha_pattern={name: 7.5 for name in EVA if name.startswith("blocks.1")},
    ),
    "peft_olora_qkv": vp.LoRA(**QKV, init="olora"),
    "peft_olora_qkv_converted": vp.LoRA(rank=8, alpha=12, targets=("qkv",)),
    "peft_patterns": vp.LoRA(
        rank=4,
        alpha=6,
        targets=("qkv", "proj", "patch_embed"),
        lora_bias=True,
        rank_pattern={"blocks.0.attn.proj": 2, "blocks.1.attn.proj": 2},
        alpha_pattern={"blocks.0.attn.qkv": 10},
    ),
    "peft_pissa_qkv": vp.LoRA(**QKV, init="pissa"),
    "peft_pissa_qkv_converted": vp.LoRA(rank=8, alpha=12, targets=("qkv",)),
    "peft_pissa_rslora_fc": vp.LoRA(rank=4, alpha=6, targets=("fc1", "fc2"), rslora=True, init="pissa"),
    "peft_adalora": vp.AdaLoRA(
        rank=5, target_rank=2, alpha=6, targets=("qkv", "fc2"), warmup=1 / 8, final=2 / 8, allocate=False
    ),
    "peft_vera_all": vp.VeRA(rank=8, targets=("qkv", "proj", "fc1", "fc2"), seed=7),
    "peft_vera_qkv": vp.VeRA(rank=8, targets=("qkv",), seed=7, save_projection=True),
}
GOLDEN["peft_adalora_allocated"] = GOLDEN["peft_adalora"]


def read_as_in(shared: Path, name: str) -> tuple[Any, dict[str, Tensor]]:
    """The golden model with the adapter of a folder, and what HF peft computed."""
    golden = read_golden(shared / "golden" / name)
    return vp.read_foreign(shared / "golden" / name, "hf_peft").put_on(golden_model(golden)), golden


def test_no_golden_folder_is_left_out(shared):
    assert {path.name for path in (shared / "golden").glob("peft_*")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_hf_peft(name, shared):
    model, golden = read_as_in(shared, name)
    found = record.find(model)
    assert found is not None
    assert found.methods[0] == GOLDEN[name]
    assert found.methods[1:] == ([vp.NormTuning(norms="final")] if name == "peft_patterns" else [])
    logits = model(golden["input"])
    assert (logits - golden["logits"]).abs().max() <= 1e-5
    logits.square().sum().backward()
    ours = {key: p.grad for key, p in tuned_parameters(model)}
    theirs = by_our_names(golden, "grad/")
    if name == "peft_all_linear":  # its head has a LoRA, ours trains whole: the chain rule from one to the other
        A, B = (t for n, t in sorted(load(shared, name).items()) if n.startswith("base_model.model.head.lora"))
        whole = ours["head.weight"]
        assert whole is not None
        ours = {n: g for n, g in ours.items() if not n.startswith("head.")}
        ours |= {"head.lora.A": 2 * B.T @ whole, "head.lora.B": 2 * whole @ A.T}
    assert not theirs or ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        own = ours[key]
        assert own is not None
        if gradient.ndim == 4 and key.endswith("B"):
            gradient = gradient.flatten(1)  # a 1 x 1 convolution
        if name == "peft_adalora_allocated" and "adalora" in key:  # the file holds the rows that were kept
            kept = model.get_parameter(f"{key[:-1]}E")[:, 0] != 0
            own, gradient = (g.movedim(int(key.endswith("B")), 0)[kept] for g in (own, gradient))
        assert (own - gradient).norm() <= 1e-4 * gradient.norm(), key


def load(shared: Path, name: str) -> dict[str, Tensor]:
    return safetensors.torch.load_file(shared / "golden" / name / TENSORS)


@pytest.mark.parametrize("name", ["peft_pissa_qkv", "peft_olora_qkv", "peft_pissa_rslora_fc"])
def test_the_residual_is_taken_from_the_original_weights(name, shared):
    model, golden = read_as_in(shared, name)
    for key, residual in golden.items():
        if key.startswith("residual/"):
            layer: Any = model.get_submodule(key.removeprefix("residual/").removesuffix(".weight"))
            off = layer.lora.scaling * layer.lora.B0 @ layer.lora.A0
            torch.testing.assert_close(layer.weight - off, residual, rtol=1e-5, atol=1e-5)
            init = by_our_names(golden, "init/")
            base = f"{key.removeprefix('residual/').removesuffix('.weight')}.lora"
            product = init[f"{base}.B"] @ init[f"{base}.A"]  # of a pair of unknown sign
            torch.testing.assert_close(layer.lora.B0 @ layer.lora.A0, product, rtol=1e-4, atol=1e-5)


WRITTEN: list[vp.Method] = [
    vp.LoRA(rank=3, alpha=4, targets=("qkv", "fc1", "patch_embed"), init="pissa"),
    vp.LoRA(rank=3, alpha=4, targets=("qkv", "proj"), init="olora", rslora=True),
    vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj"), init="pissa"),
    vp.LoRA(rank=2, alpha=3, targets=("qkv", "fc2"), init="olora", dora=True),
    vp.LoRA(rank=2, targets=("q", "v", "proj"), rank_pattern={"v": 3, "0.attn.proj": 4}, alpha_pattern={"q": 2}),
    vp.LoRA(rank=2, targets=("qkv", "fc1"), rank_pattern={"1.attn.qkv": 0, "0.mlp.fc1": 1}, rslora=True),
    vp.LoRA(rank=2, targets=("k", "proj"), lora_bias=True, expert_dropout=0.5),
    vp.LoRA(rank=2, targets=("q", "v"), lora_bias=True, alpha_pattern={"q": 2}),
    vp.LoRA(rank=2, targets=("qkv", "fc1"), lora_bias=True, init="pissa"),
    vp.LoRA(rank=2, targets=("all-linear", "patch_embed")),
    vp.LoRA(rank=2, targets=("q", "fc1"), init="orthogonal"),
    vp.AdaLoRA(rank=3, target_rank=1.5, targets=("qkv", "fc2")),
    vp.VeRA(rank=5, targets=("qkv", "fc1"), seed=3),
    vp.VeRA(rank=5, targets=("proj",), save_projection=True),
]


@pytest.mark.parametrize("method", WRITTEN, ids=repr)
@pytest.mark.parametrize("family", ["vit", "swin", "eva02_base", "siglip"])
def test_hf_peft_and_the_reader_load_what_is_written(method, family, tmp_path):
    if family in ("swin", "eva02_base") and any(getattr(method, f"{what}_pattern", {}) for what in ("rank", "alpha")):
        pytest.skip("its layers have other names than the patterns")
    model = vp.attach(tiny(family), method)
    randomise_tuned(model)
    vp.write_foreign(model.eval(), tmp_path)
    x = images(model)
    torch.testing.assert_close(loaded_by_peft(tmp_path, family)(x), model(x), rtol=1e-4, atol=1e-5)
    again = vp.read_foreign(tmp_path, "hf_peft").put_on(tiny(family))
    torch.testing.assert_close(again.eval()(x), model(x), rtol=1e-4, atol=1e-5)


def test_pissa_is_written_as_such_where_hf_peft_takes_the_same_part_off_and_as_plain_lora_elsewhere(tmp_path):
    for targets, init, rank in ((("qkv",), "pissa", 2), (("q", "v"), True, 8)):
        model = vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=targets, init="pissa"))
        vp.write_foreign(model, tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert (config["init_lora_weights"], config["r"]) == (init, rank)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_peft_trained_on_separate_layers_is_read(init, tmp_path):
    peft: Any = pytest.importorskip("peft", reason="needs peft, of the extra test")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=init)
    theirs = peft.get_peft_model(tiny("eva02_base"), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    foreign = vp.read_foreign(tmp_path, "hf_peft")
    assert foreign.method == vp.LoRA(rank=2, alpha=8, targets=("q", "k", "v"), init=init)
    model = foreign.put_on(tiny("eva02_base"))
    x = images(model)
    torch.testing.assert_close(model.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)
