"""Optimiser, schedule and average against their closed forms."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from vision_peft.config.schema import Recipe
from vision_peft.training.step import create_optimizer, create_schedule, update_average
from vision_peft.tuning.attentive import AttentiveHead
from vision_peft.tuning.head_kinds import Attentive


def rates(recipe: Recipe, epochs: int, updates: int) -> list[float]:
    """The rates of a training as long as the recipe says."""
    return rates_of_other_length(replace(recipe, epochs=epochs), epochs, updates)


def rates_of_other_length(recipe: Recipe, epochs: int, updates: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = create_schedule(optimizer, recipe, epochs, updates)
    found = []
    for update in range(epochs * updates):
        schedule.step_update(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    found = rates(Recipe(lr=0.4, min_lr=0.1, warmup_epochs=1), epochs=3, updates=4)
    rising = [0.1 + 0.3 * k / 4 for k in range(4)]
    falling = [0.1 + 0.3 * 0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert found == pytest.approx(rising + falling)


def test_a_training_of_other_length_keeps_the_proportions_of_the_schedule() -> None:
    recipe = Recipe(lr=1.0, epochs=100, warmup_epochs=10)
    planned, shorter = rates(recipe, 100, 2), rates_of_other_length(recipe, 10, 2)
    assert max(shorter) == pytest.approx(1.0)
    assert shorter.index(max(shorter)) == planned.index(max(planned)) / 10
    assert shorter[-1] < 0.05  # annealed, where the first ten epochs of the plan end at its peak
    assert planned[19] > 0.9


def test_by_epoch_the_rate_stays_for_the_updates_of_an_epoch() -> None:
    recipe = Recipe(lr=0.4, min_lr=0.1, warmup_epochs=2, schedule="cosine_by_epoch")
    by_epoch = [0.2, 0.3, *(0.1 + 0.3 * 0.5 * (1 + math.cos(math.pi * k / 3)) for k in range(3))]
    assert rates(recipe, epochs=5, updates=4) == pytest.approx([rate for rate in by_epoch for _ in range(4)])


def test_the_warm_up_starts_where_it_is_told() -> None:
    recipe = Recipe(lr=1e-3, warmup_epochs=2, warmup_lr=1e-6, schedule="cosine_by_epoch")
    assert rates(recipe, epochs=3, updates=2) == pytest.approx([1e-6, 1e-6, 0.5005e-3, 0.5005e-3, 1e-3, 1e-3])
    recipe = Recipe(lr=0.8, warmup_epochs=1, warmup_lr=0.0)
    assert rates(recipe, epochs=2, updates=4)[:5] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_the_rate_of_poly_falls_as_a_power_of_what_is_left() -> None:
    falling = [0.1 + 0.3 * (1 - k / 8) ** 0.9 for k in range(8)]
    recipe = Recipe(lr=0.4, min_lr=0.1, warmup_epochs=0, schedule="poly")
    assert rates(recipe, epochs=2, updates=4) == pytest.approx(falling)
    rising = [0.1 + 0.3 * k / 4 for k in range(4)]
    recipe = Recipe(lr=0.4, min_lr=0.1, warmup_epochs=1, schedule="poly")
    assert rates(recipe, epochs=3, updates=4) == pytest.approx(rising + falling)


def test_a_constant_rate_stays_after_the_warm_up() -> None:
    assert rates(Recipe(lr=0.5, schedule="constant", warmup_epochs=0.5), 2, 4) == pytest.approx(
        [0.25, 0.375, *[0.5] * 6]
    )


@pytest.mark.parametrize("warmup", [0, 5])
def test_a_single_update_has_the_full_rate_whatever_the_warm_up(warmup: float) -> None:
    assert rates(Recipe(lr=0.5, warmup_epochs=warmup), 1, 1) == [0.5]


@pytest.mark.parametrize("kind", ["cosine", "cosine_by_epoch", "poly", "constant"])
@pytest.mark.parametrize(("updates", "warmup"), [(1, 0.0), (1, 0.5), (2, 0.5), (3, 0.7)])
def test_a_schedule_of_one_step_after_the_warm_up_is_nothing_to_warn_of(
    kind: str, updates: int, warmup: float, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(epochs=1, lr=0.1, warmup_epochs=warmup, schedule=kind)
    found = rates(recipe, 1, updates)
    assert caplog.messages == []
    assert found[-1] == pytest.approx(0.1)


def test_vectors_are_not_decayed_and_frozen_tensors_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimizer = create_optimizer(model, Recipe(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    wanted = {id(p): 0.3 if p.ndim == 2 else 0.0 for p in [*model[1].parameters(), *model[2].parameters()]}
    assert decay == wanted
    assert isinstance(optimizer, torch.optim.AdamW)


def test_sgd_has_classical_momentum() -> None:
    optimizer: Any = create_optimizer(nn.Linear(2, 2), Recipe(optimizer="sgd", momentum=0.8))
    assert isinstance(optimizer, torch.optim.SGD)
    assert [(group["momentum"], group["nesterov"]) for group in optimizer.param_groups] == [(0.8, False)] * 2


def test_the_average_follows_floats_and_copies_counters() -> None:
    average = {"weight": torch.tensor([1.0, 2.0]), "counter": torch.tensor(3)}
    update_average(average, {"weight": torch.tensor([3.0, 0.0]), "counter": torch.tensor(9)}, decay=0.75)
    assert average["weight"].tolist() == [0.75 * 1 + 0.25 * 3, 0.75 * 2]
    assert average["counter"] == 9


def test_lars_takes_its_trust_ratio_before_momentum_and_leaves_vectors_alone() -> None:
    torch.manual_seed(0)
    matrix, vector = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))
    recipe = Recipe(optimizer="lars", lr=0.5, momentum=0.8, weight_decay=0.1)
    model = nn.ParameterDict({"matrix": matrix, "vector": vector})
    optimizer = create_optimizer(model, recipe)
    w, v = matrix.detach().clone(), vector.detach().clone()
    m, n = torch.zeros_like(w), torch.zeros_like(v)
    for _ in range(3):
        matrix.grad, vector.grad = torch.randn(3, 4), torch.randn(4)
        g = matrix.grad + 0.1 * w
        m = 0.8 * m + 0.001 * w.norm() / g.norm() * g
        n = 0.8 * n + vector.grad
        w, v = w - 0.5 * m, v - 0.5 * n
        optimizer.step()
    torch.testing.assert_close(matrix.detach(), w)
    torch.testing.assert_close(vector.detach(), v)


def test_lars_steps_from_zero_weights_and_over_zero_gradients() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = create_optimizer(nn.ParameterDict({"a": zero, "b": still}), Recipe(optimizer="lars", weight_decay=0.0))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((2, 2), -Recipe().lr))
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_lars_is_that_of_efficient_probing(shared: Path) -> None:
    file = safetensors.torch.load_file(shared / "golden" / "ep_lars3.safetensors")
    names = {"0.cls_token": "pool.queries", "0.v.weight": "pool.value.weight"}
    names |= {f"{place}.{name}": f"classifier.{place - 1}.{name}" for place in (1, 2) for name in _OF_LAYER[place]}
    head = AttentiveHead(48, 5, Attentive(queries=8))
    head.load_state_dict({ours: file[f"state/{name}"].squeeze(0) for name, ours in names.items()}, strict=True)
    optimizer = create_optimizer(head, Recipe(optimizer="lars", lr=4.8, momentum=0.9, weight_decay=0.0))
    for step in range(3):
        loss = nn.functional.cross_entropy(head(file["features"]), file["target"])
        torch.testing.assert_close(loss.detach(), file[f"loss{step}"][0], atol=1e-5, rtol=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, ours in names.items():
        torch.testing.assert_close(head.state_dict()[ours], file[f"after/{name}"].squeeze(0), atol=1e-5, rtol=1e-5)


_OF_LAYER = {1: ("running_mean", "running_var", "num_batches_tracked"), 2: ("weight", "bias")}
