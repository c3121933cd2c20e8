"""Bytes of living tensors, operation by operation, and the straight lines through two batches."""

from typing import Any

import pytest
import torch
from support.families import attach, images, randomise_tuned, tiny

import vision_peft as vp
from vision_peft.memory.timeline import extrapolate_peak, record_live_bytes


def test_what_is_made_counts_until_nothing_holds_it() -> None:
    before = torch.zeros(100)

    def run() -> None:
        one = before + 1  # 400 bytes
        two = one.double()  # 800
        del one
        three = two.view(10, 10)[0]  # a view makes nothing
        before.add_(three.sum().float())  # 8, then 4; nor does what is written in place
        del two, three

    live = record_live_bytes(run)
    assert max(live) == 1200
    assert live[:2] == [400, 1200]
    assert live[-1] == 800 + 4


def test_what_autograd_keeps_counts_and_backward_gives_it_back() -> None:
    weight = torch.ones(50, 50, requires_grad=True)

    def run() -> None:
        kept = (torch.ones(10, 50) @ weight).exp()  # input 2000 bytes, product 2000, result 2000, of which 2 are kept
        kept.sum().backward()

    live = record_live_bytes(run)
    assert max(live) >= 2000 + 2000 + 50 * 50 * 4  # input and the gradient
    assert live[-1] <= 2000 + 2000 + 2000 + 50 * 50 * 4 + 8
    assert weight.grad is not None


def test_lines_through_every_operation_find_a_peak_that_moves() -> None:
    one, other = [100, 10, 5], [110, 100, 10]  # the second operation grows by 90 an item
    assert extrapolate_peak(one, other, (2, 3), 2) == 100
    assert extrapolate_peak(one, other, (2, 3), 12) == 10 + 10 * 90
    assert extrapolate_peak([100, 10], [110], (2, 3), 12) == 200  # not the same operations: the peaks alone
    assert extrapolate_peak([], [], (2, 3), 12) == 0


METHODS = [vp.AdaptFormer(), vp.LoRA(), vp.VPT(), vp.FullFineTune(), vp.LinearProbe(), vp.DTL()]


@pytest.mark.parametrize("part", ["none", "mlp", "block"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_two_small_batches_tell_the_peak_of_a_large_one(method: vp.Method, part: str) -> None:
    model: Any = attach(tiny("vit"), method)
    randomise_tuned(model)
    vp.set_recompute(vp.train_mode(model), part)
    inputs = {items: images(model, batch=items) for items in (2, 3, 9)}

    def record(items: int) -> list[int]:
        live = record_live_bytes(lambda: model(inputs[items].clone()).square().sum().backward())
        model.zero_grad(set_to_none=True)
        return live

    record(2)  # constants that the first pass makes
    assert extrapolate_peak(record(2), record(3), (2, 3), 9) == max(record(9))
