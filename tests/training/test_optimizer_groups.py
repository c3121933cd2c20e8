"""The optimiser of a recipe is the one that timm makes of the same settings: class, groups, order and settings."""

from typing import Any

import pytest
import torch
from support.families import FAMILIES
from timm.optim import create_optimizer_v2

import vision_peft as vp
from vision_peft.config.schema import Recipe
from vision_peft.training.step import create_optimizer
from vision_peft.tuning.decay_groups import group_by_decay

OF_TIMM = {"adamw": "adamw", "sgd": "momentum", "lbfgs": "momentum"}


def describe(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{**group, "params": [id(each) for each in group["params"]]} for group in optimizer.param_groups]


@pytest.mark.parametrize("family", ["vit", "beit", "swin"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(
    ("name", "layer_decay"), [("adamw", None), ("adamw", 0.75), ("sgd", None), ("sgd", 0.75), ("lbfgs", None)]
)
def test_it_is_the_one_of_timm(family: str, decay: float, name: str, layer_decay: float | None) -> None:
    model = FAMILIES[family].make()  # BEiT and Swin name further parameters that do not decay
    vp.attach(model, vp.FullFineTune())
    recipe = Recipe(optimizer=name, lr=0.1, weight_decay=decay, layer_decay=layer_decay, momentum=0.7, betas=(0.8, 0.9))
    further: dict[str, Any] = {"betas": (0.8, 0.9)} if name == "adamw" else {}
    theirs = create_optimizer_v2(
        model, OF_TIMM[name], lr=0.1, weight_decay=decay, momentum=0.7, layer_decay=layer_decay, **further
    )
    ours = create_optimizer(model, recipe)
    assert type(ours) is type(theirs)
    assert describe(ours) == describe(theirs)
    assert ours.defaults == theirs.defaults


def test_names_that_a_model_gives_may_be_patterns() -> None:
    class Named(torch.nn.Linear):
        def no_weight_decay(self) -> set[str]:
            return {"wei*"}

    model = Named(2, 2)
    (group,) = group_by_decay(model, 0.1)
    assert group == {"params": [model.weight, model.bias], "weight_decay": 0.0}
    assert [group["weight_decay"] for group in group_by_decay(torch.nn.Linear(2, 2), 0.1)] == [0.0, 0.1]


def test_what_is_frozen_is_in_no_group() -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert group_by_decay(model, 0.1) == [{"params": [model.bias], "weight_decay": 0.0}]
