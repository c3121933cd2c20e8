"""No method reads a number out of a tensor in a training pass: a GPU would have to be waited for in every update."""

import pytest
import torch
from support.families import attach, images, tiny
from support.matrix import every_compiled_case
from support.waits import count_waits

import vision_peft as vp


@every_compiled_case
def test_a_training_pass_reads_nothing_from_the_device(method: vp.Method, family: str) -> None:
    model = vp.train_mode(attach(tiny(family), method), frozen="train")
    x = images(model, batch=4)
    with count_waits() as found:
        model(x).square().sum().backward()
    assert found["reads"] == 0


@pytest.mark.parametrize("read", [torch.Tensor.item, torch.Tensor.tolist, bool, float, torch.Tensor.cpu])
def test_reads_are_counted_whatever_they_are_called(read) -> None:
    with count_waits() as found:
        read(torch.ones(()))
    assert found["reads"] == 1
