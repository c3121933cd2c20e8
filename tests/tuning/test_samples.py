"""Which images of the training split a method gets, and what its record says after it has seen them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from support.families import images, tiny
from torch import nn

import vision_peft as vp
from vision_peft.tuning import record
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.samples import SamplesNeeded

LABELS = [0, 0, 0, 1, 2, 1, 0, 2]


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (SamplesNeeded("", per_class=1), [0, 3, 4]),
        (SamplesNeeded("", per_class=2), [0, 1, 3, 4, 5, 7]),
        (SamplesNeeded("", total=3), [0, 3, 4]),
        (SamplesNeeded("", total=5), [0, 1, 3, 4, 5]),
        (SamplesNeeded("", total=100), list(range(8))),
        (SamplesNeeded(""), list(range(8))),
    ],
)
def test_images_are_chosen_in_the_order_of_the_data_and_the_classes_get_even_shares(needed, expected):
    assert needed.choose(LABELS) == expected


@dataclass(frozen=True)
class _Measured(vp.Method):
    name: ClassVar[str] = "measured"
    total: int = 0

    @property
    def samples_needed(self) -> SamplesNeeded | None:
        return SamplesNeeded("to count them", total=4)

    def attach(self, model: nn.Module) -> None:
        blocks(model)[0].norm1.weight.requires_grad_(True)

    def initialise(self, model: nn.Module, samples: Iterable[Any] | None) -> vp.Method:
        return replace(self, total=sum(len(x) for x, _ in samples or ()))


def test_the_model_records_the_method_that_the_samples_made():
    model = tiny("vit")
    vp.attach(model, _Measured(), samples=[(images(model), torch.tensor([0, 1]))] * 2)
    found = record.find(model)
    assert found is not None
    assert found.methods == [_Measured(total=4)]


def test_missing_samples_are_named_with_their_purpose():
    with pytest.raises(ValueError, match=r"needs images to count them: pass attach\(model, method, samples=loader\)"):
        vp.attach(tiny("vit"), _Measured())
