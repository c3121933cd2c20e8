"""A model is built of what a file holds and no more: depth and shapes are compared before anything takes memory."""

from typing import Any

import pytest
import torch
from support.official_tuned import official_adaptformer

import vision_peft as vp


@pytest.mark.parametrize("number", ["5", "999999999", "9" * 5000, "x", "-1", "01", "0x1"])
def test_blocks_that_are_not_there_are_not_built(number):
    foreign: Any = vp.read_foreign(official_adaptformer(), "adaptformer")
    foreign.backbone[f"blocks.{number}.norm1.weight"] = torch.zeros(8)
    with pytest.raises(ValueError, match="do not reveal the depth: wanted blocks 0, 1, 2") as refused:
        foreign.build(num_heads=2)
    assert len(str(refused.value)) < 1000


def test_more_blocks_than_any_model_has_are_not_built():
    foreign: Any = vp.read_foreign(official_adaptformer(), "adaptformer")
    foreign.backbone.update({f"blocks.{number}.x": torch.zeros(1) for number in range(600)})
    with pytest.raises(ValueError, match="at most 512"):
        foreign.build(num_heads=2)


def test_tensors_of_another_shape_are_refused_before_a_model_takes_memory():
    foreign: Any = vp.read_foreign(official_adaptformer(), "adaptformer")
    foreign.backbone["blocks.0.mlp.fc1.weight"] = torch.zeros(1).expand(2**31, 8)
    with pytest.raises(ValueError, match=r"of another shape blocks\.0\.mlp\.fc1\.bias is"):
        foreign.build(num_heads=2)
