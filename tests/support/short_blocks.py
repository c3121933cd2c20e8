"""Tiny models whose last block is short, and the same ones with it whole."""

import copy
from typing import Any

import torch
from support.families import tiny
from torch import Tensor

from vision_peft.tuning import graft
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.short_block import ShortBlock, restore_last_block


def build(family: str) -> Any:
    model = tiny(family)
    model.global_pool = "token"
    return model.double()


def is_short(model: Any) -> bool:
    return ShortBlock in graft.kinds(blocks(model)[-1])


def gradients(model: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(3)
    logits = model(x)
    logits = logits if isinstance(logits, Tensor) else torch.stack(logits)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: Any, whole: Any, x: Tensor) -> None:
    logits, found = gradients(model, x)
    expected, wanted = gradients(whole, x)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    assert found.keys() == wanted.keys()
    largest = max(gradient.abs().max() for gradient in wanted.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient / largest, wanted[name] / largest, rtol=1e-11, atol=1e-13)


def whole_twin(model: Any) -> Any:
    twin = copy.deepcopy(model)
    assert restore_last_block(twin) == is_short(model)
    return twin
