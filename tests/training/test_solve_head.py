"""A head solved by L-BFGS: the solution, the path of penalties, resuming, and what it is not for."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from support.pair import in_two_processes
from support.tiny_run import tiny_config
from torch import Tensor, nn

from vision_peft.config.command_line import compose_config
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.processes import join
from vision_peft.tasks.classes import CrossEntropy
from vision_peft.training import progress
from vision_peft.training.solve_head import Regression, penalty_of_epoch
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
SOLVE = ["method=linear", "recipe=lbfgs", "recipe.epochs=13", "recipe.weight_decay=1e-5"]


def adapter_of(config: Config) -> dict[str, Tensor]:
    return load_file(run_folder(config) / "adapter" / "adapter.safetensors")


def solve(features: Tensor, labels: Tensor, penalty: float) -> nn.Linear:
    head = nn.Linear(features.shape[1], int(labels.max()) + 1)
    Regression(features, labels, CrossEntropy()).solve(head, penalty)
    return head


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_the_solution_is_that_of_logistic_regression(penalty: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=generator)
    features = torch.randn(200, 16, generator=generator) + torch.eye(4, 16)[labels]
    head = solve(features, labels, penalty)
    reference = LogisticRegression(C=1 / (200 * penalty), max_iter=10_000, tol=1e-8).fit(features.numpy(), labels)
    logits = (head(features) - head(features).mean(1, keepdim=True)).detach().numpy()
    theirs = reference.decision_function(features.numpy())
    np.testing.assert_allclose(logits, theirs - theirs.mean(1, keepdims=True), atol=2e-3 * np.abs(theirs).max())


def test_smoothing_and_weights_of_classes_are_in_what_is_minimised() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, features = torch.arange(90) % 3, torch.randn(90, 5, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    head = nn.Linear(5, 3).double()
    Regression(features, labels, CrossEntropy(0.1, weights.tolist())).solve(head, 1e-2)
    loss = nn.functional.cross_entropy(head(features), labels, weights, label_smoothing=0.1, reduction="sum") / 90
    (loss + 5e-3 * head.weight.square().sum()).backward()
    assert head.weight.grad is not None
    assert head.bias.grad is not None
    assert max(head.weight.grad.abs().max(), head.bias.grad.abs().max()) < 2e-5


def test_the_path_falls_by_half_a_power_of_ten_to_the_weight_decay(tiny: Tiny) -> None:
    recipe = tiny(*SOLVE).recipe
    penalties = [penalty_of_epoch(recipe, epoch) for epoch in range(recipe.epochs)]
    assert penalties[0] == pytest.approx(10)
    assert penalties[-1] == pytest.approx(recipe.weight_decay)
    assert [first / second for first, second in itertools.pairwise(penalties)] == pytest.approx([10**0.5] * 12)


def test_val_chooses_the_strength_and_a_second_training_stops_there(tiny: Tiny) -> None:
    row = train(tiny(*SOLVE, "protocol=val_select_retrain")).row
    first = [entry for entry in row.curve if "val_loss" in entry]
    again = [entry for entry in row.curve if "val_loss" not in entry]
    assert len(first) == 13
    assert [entry["train_loss"] for entry in first] == sorted((entry["train_loss"] for entry in first), reverse=True)
    best = max(first, key=lambda entry: (entry["val_top1"], -entry["val_loss"]))
    assert row.chosen_epoch == best["epoch"] == len(again)
    assert again[-1]["penalty"] == best["penalty"]
    assert row.tried == {"recipe.weight_decay": [entry["penalty"] for entry in first]}
    assert row.reused_features
    assert row.top1 is not None


def test_a_run_that_was_killed_goes_on_with_the_next_strength(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = (tiny(*SOLVE, folder=name) for name in ("whole", "killed"))
    train(whole)
    monkeypatch.setattr(progress, "SHORTEST_BETWEEN_EPOCHS_SECONDS", 0)
    real, penalties = Regression.solve, []

    def fail_at_the_fifth(self: Regression, head: nn.Linear, penalty: float, lr: float) -> Any:
        penalties.append(penalty)
        if len(penalties) == 5:
            raise MemoryError("killed")
        return real(self, head, penalty, lr)

    monkeypatch.setattr(Regression, "solve", fail_at_the_fifth)
    with pytest.raises(MemoryError):
        train(killed)
    train(killed)
    assert len(penalties) == 14
    assert penalties[4] == penalties[5]
    ours, theirs = adapter_of(killed), adapter_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def solve_in_one_of_two(rank: int, folder: Path, photos: Path) -> dict[str, Any]:
    config = tiny_config(photos, folder / "two", *SOLVE)
    join(choose_compute("cpu", "fp32"), 60)
    return {"val": [entry["val_loss"] for entry in train(config).row.curve]}


def test_two_processes_find_what_one_finds(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    one = [entry["val_loss"] for entry in train(tiny(*SOLVE)).row.curve]
    first, second = in_two_processes(functools.partial(solve_in_one_of_two, photos=photos), tmp_path)
    assert first["given"]["val"] == second["given"]["val"] == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["method=lora"], "method=linear"),
        (["recipe.augment=flip"], "no augmentation"),
        (["recipe.head=mlp-2"], "recipe.head=linear"),
        (["reuse_features=false"], "reuse_features=true"),
        (["data.balanced=true"], "recipe.class_weights=balanced in place"),
    ],
)
def test_what_it_cannot_solve_is_said_before_anything_is_written(tiny: Tiny, words: list[str], needs: str) -> None:
    config = tiny(*SOLVE, *words)
    with pytest.raises(ValueError, match=r"recipe\.optimizer=lbfgs solves for a head on features: it needs") as error:
        train(config)
    assert needs in str(error.value)
    assert not run_folder(config).exists()


def test_settings_of_other_optimisers_are_refused() -> None:
    words = ["method=linear", "recipe=lbfgs", "recipe.ema=0.9", "recipe.clip_grad=1", "recipe.layer_decay=0.9"]
    with pytest.raises(ConfigError) as error:
        compose_config(words)
    assert [name for name in ("ema", "clip_grad", "layer_decay") if f"does not use {name}" in str(error.value)] == [
        "ema",
        "clip_grad",
        "layer_decay",
    ]
