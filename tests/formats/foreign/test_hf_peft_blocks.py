"""Adapters on some blocks only: what is written for HF peft, and what peft itself saves, is read to the same blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from support.hf_peft_folders import change_tensors, loaded_by_peft
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.inference import convert
from vision_peft.inference.convert import convert_foreign, convert_to
from vision_peft.tuning import record
from vision_peft.tuning.blocks import blocks

METHODS: list[Any] = [
    lambda chosen: vp.LoRA(rank=2, targets=("q", "v", "fc1"), blocks=chosen),
    lambda chosen: vp.LoRA(rank=2, targets=("all-linear",), init="pissa", blocks=chosen),
    lambda chosen: vp.AdaLoRA(rank=3, target_rank=2, targets=("qkv", "fc2"), blocks=chosen),
    lambda chosen: vp.VeRA(rank=5, targets=("qkv", "fc1"), blocks=chosen),
    lambda chosen: vp.VeRA(rank=5, targets=("proj",), save_projection=True, blocks=chosen),
]


@pytest.mark.parametrize("number", range(len(METHODS)))
@pytest.mark.parametrize("chosen", ["first 1", "last 1", (1,)], ids=str)
@pytest.mark.parametrize("family", ["vit", "swin", "eva02_base"])
def test_an_adapter_on_some_blocks_is_read_back(family: str, chosen: Any, number: int, tmp_path: Path) -> None:
    method = METHODS[number](chosen)
    model: Any = vp.attach(tiny(family), method)
    every = blocks(model)
    randomise_tuned(model)
    vp.write_foreign(model.eval(), tmp_path)
    foreign = vp.read_foreign(tmp_path, "hf_peft")
    again: Any = foreign.put_on(tiny(family)).eval()
    x = images(model)
    torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)
    found: Any = record.find(again)
    wanted = {"first 1": (0,), "last 1": (len(every) - 1,)}.get(chosen, chosen)
    assert found.methods[0].blocks == wanted
    assert vp.read_foreign(tmp_path, "hf_peft").method.blocks == ("all" if family == "swin" else wanted)  # pyright: ignore
    if number == 0:
        torch.testing.assert_close(loaded_by_peft(tmp_path, family)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LoraConfig", "AdaLoraConfig", "VeraConfig"])
def test_what_peft_saves_of_some_blocks_is_read(kind: str, tmp_path: Path) -> None:
    peft: Any = pytest.importorskip("peft", reason="needs peft, of the extra test")
    sizes = {"AdaLoraConfig": {"init_r": 3, "target_r": 2, "total_step": 9}}.get(kind, {"r": 3})
    config = getattr(peft, kind)(target_modules=["qkv"], layers_to_transform=[1], layers_pattern="blocks", **sizes)
    theirs = peft.get_peft_model(tiny("vit"), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora" in name or "vera" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    foreign = vp.read_foreign(tmp_path, "hf_peft")
    assert foreign.method is not None
    assert foreign.method.blocks == (1,)  # pyright: ignore[reportAttributeAccessIssue]
    x = images(tiny("vit"))
    torch.testing.assert_close(foreign.put_on(tiny("vit")).eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


def test_every_block_is_all_of_them(tmp_path: Path) -> None:
    model = tiny("vit")
    given: Any = {"rank": 2, "targets": ("fc1",)}
    method = vp.LoRA(**given, blocks=tuple(range(len(blocks(model)))))
    vp.write_foreign(vp.attach(model, method), tmp_path)
    assert vp.read_foreign(tmp_path, "hf_peft").methods_on(tiny("vit")) == (vp.LoRA(**given),)


def test_a_converted_folder_is_an_adapter_on_the_same_blocks(tmp_path: Path) -> None:
    method = vp.LoRA(rank=2, targets=("qkv", "fc1"), blocks="last 1")
    model = vp.load(save_tuned(tmp_path / "adapter", method), device="cpu")
    done = convert_to(model, tmp_path / "peft", "hf_peft")
    last = len(blocks(model)) - 1
    assert [each.blocks for each in done.methods] == [(last,)]  # pyright: ignore[reportAttributeAccessIssue]
    arguments = model.adapter_info.backbone["arguments"]
    backbone = {"name": model.adapter_info.backbone["name"], "img_size": 32, **arguments}
    backbone["checkpoint"] = tmp_path / "adapter" / "backbone.safetensors"
    given = {key: value for key, value in backbone.items() if key not in ("seed", "pretrained")}
    convert_foreign(tmp_path / "peft", tmp_path / "back", "hf_peft", backbone=given)
    again = vp.load(tmp_path / "back", device="cpu", checkpoint=backbone["checkpoint"])
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_folder_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_other(model: Any, folder: Path, target: str) -> None:
        write(model, folder, target)
        change_tensors(folder, lambda tensors: [tensors[name].mul_(2) for name in tensors if "lora_B" in name])

    write = convert.write_foreign
    monkeypatch.setattr(convert, "write_foreign", write_other)
    model = vp.load(save_tuned(tmp_path / "adapter"), device="cpu")
    with pytest.raises(
        ValueError, match=r"nothing is written: what is read back from the folder for hf_peft gives oth"
    ):
        convert_to(model, tmp_path / "peft", "hf_peft")
    assert not (tmp_path / "peft").exists()
