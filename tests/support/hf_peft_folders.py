"""Folders of HF peft written from tiny models, read back, loaded by peft itself, or changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from support.families import randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp

TENSORS = "adapter_model.safetensors"
WIDE = vp.LoRA(rank=16, targets=("q", "k", "v"))  # joined, its rank is above the width 32


def loaded_by_peft(folder: Path, family: str) -> nn.Module:
    """A tiny model of `family` with the adapter of `folder`, by peft's own code; skips where peft is absent."""
    peft: Any = pytest.importorskip("peft", reason="needs peft, of the extra test")
    return peft.PeftModel.from_pretrained(tiny(family), str(folder)).eval()


def written(method: vp.LoRA, family: str, folder: Path, head: str = "linear") -> nn.Module:
    """A tiny model of `family` tuned at random, after it was written to `folder`."""
    model = vp.attach(vp.replace_head(tiny(family), head, 5), method)
    randomise_tuned(model)
    vp.write_foreign(model.eval(), folder, target="hf_peft")
    return model


def read_back(folder: Path, family: str) -> tuple[nn.Module, vp.LoRA]:
    """A tiny model of `family` with the adapter of `folder`, and the method that is on it."""
    foreign = vp.read_foreign(folder, "hf_peft")
    model = tiny(family)
    method: Any = foreign.methods_on(model)[0]
    return foreign.put_on(model).eval(), method


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Apply `change` to the tensors of `folder`."""
    tensors = safetensors.torch.load_file(folder / TENSORS)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / TENSORS)
