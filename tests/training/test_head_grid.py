"""Several heads at once learn what each learns alone; val chooses one; a run of them resumes bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.families import tiny as make
from support.killed import killed_at
from support.tiny_run import left_behind

import vision_peft as vp
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.formats import read_adapter_info
from vision_peft.training import progress as progress_module
from vision_peft.training.step import create_optimizer, create_schedule
from vision_peft.training.trained import train
from vision_peft.tuning.head_grid import spread_heads

Tiny = Callable[..., Config]
PROBE = ["method=linear", "recipe.weight_decay=0.01"]
GRID = "recipe.head_grid={lr: [1e-3, 1e-2], weight_decay: [0.0, 0.1]}"
ATTENTIVE = ["recipe.head=attentive", "recipe.head_options.queries=4"]


def tensors(config: Config) -> dict[str, torch.Tensor]:
    return load_file(run_folder(config) / "adapter" / "adapter.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        ["recipe.head=batchnorm_linear"],
        [*ATTENTIVE, "recipe.optimizer=lars", "recipe.ema=0.5"],
        ["recipe.augment=flip", "recipe.accumulate=2", "recipe.optimizer=sgd"],
    ],
    ids=["batchnorm", "attentive_lars_ema", "augmented_sgd"],
)
def test_every_head_learns_what_it_learns_alone_and_the_best_on_val_is_kept(tiny: Tiny, settings: list[str]) -> None:
    together = tiny(*PROBE, *settings, GRID)
    row = train(together).row
    alone: list[Any] = []
    for lr in ("1e-3", "1e-2"):
        for decay in ("0.0", "0.1"):
            config = tiny(*PROBE[:1], *settings, f"recipe.lr={lr}", f"recipe.weight_decay={decay}")
            alone.append((train(config).row, tensors(config)))
    entries = [max(one.curve, key=lambda e: (e["val_top1"], -e["val_loss"])) for one, _ in alone]
    best = max(range(4), key=lambda i: (entries[i]["val_top1"], -entries[i]["val_loss"]))
    expected, wanted = alone[best]
    assert (row.lr, row.weight_decay, row.chosen_epoch) == (expected.lr, expected.weight_decay, expected.chosen_epoch)
    assert (row.val_top1, row.top1) == (expected.val_top1, expected.top1)
    assert row.tried == {"recipe.lr": [1e-3, 1e-2], "recipe.weight_decay": [0.0, 0.1]}
    assert row.params_head == expected.params_head
    found = tensors(together)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)


def test_a_head_with_a_lower_rate_than_the_highest_learns_as_alone(tiny: Tiny) -> None:
    together, alone = tiny(*PROBE, "recipe.head_grid={lr: [1e3, 2e-3]}"), tiny(*PROBE, "recipe.lr=2e-3")
    row = train(together).row
    assert row.lr == 2e-3
    train(alone)
    for name, tensor in tensors(alone).items():
        torch.testing.assert_close(tensors(together)[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_weight_decay_of_a_head_is_its_own(tiny: Tiny) -> None:
    norms = []
    for decay in (0.0, 50.0):
        config = tiny(*PROBE, f"recipe.head_grid={{lr: [1e-2], weight_decay: [{decay}]}}", "recipe.epochs=3")
        train(config)
        norms.append(tensors(config)["head.weight"].norm())
    assert norms[1] < 0.8 * norms[0]


def test_a_second_phase_trains_one_head_as_val_chose(tiny: Tiny) -> None:
    config = tiny(*PROBE, "recipe.head_grid={lr: [1e-5, 2e-2]}", "protocol=val_select_retrain")
    row = train(config).row
    assert (row.lr, row.weight_decay) == (2e-2, 0.01)
    epochs = row.chosen_epoch or 0
    assert {name.split(".heads")[0] for name in tensors(config)} == {"head.weight", "head.bias"}
    assert [entry["phase"] for entry in row.curve] == ["select"] * 2 + ["retrain"] * epochs
    assert read_adapter_info(run_folder(config) / "adapter").head == "linear"
    log = (run_folder(config) / "log.txt").read_text()
    assert "of 2 heads val chose that of lr 0.02 and weight decay 0.01" in log


@pytest.mark.parametrize("step", [(2, 0), (4, 0), "evaluation"], ids=str)
def test_a_killed_run_of_several_heads_resumes_bit_for_bit(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, step: Any
) -> None:
    monkeypatch.setattr(progress_module, "SHORTEST_BETWEEN_EPOCHS_SECONDS", 0)
    settings = [*PROBE, *ATTENTIVE, GRID, "save_every=1"]
    whole = tiny(*settings, folder="whole")
    train(whole)
    killed = tiny(*settings)
    killed_at(step, killed)
    assert not (run_folder(killed) / "result.json").exists()
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["method=lora"], "needs method=linear"),
        (["method=linear", "protocol=last_epoch"], "a protocol that chooses on a split"),
        (["method=linear", "recipe.clip_grad=1"], "no recipe.clip_grad"),
        (["method=linear", "recipe.min_lr=1e-5"], "no recipe.min_lr"),
        (["method=linear", "recipe.optimizer=lbfgs"], "an optimizer that makes updates"),
        (["method=knn"], "no recipe.head_grid"),
    ],
)
def test_what_heads_cannot_share_is_refused(tiny: Tiny, settings: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        train(tiny(*settings, "recipe.head_grid={lr: [1e-3]}"))


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ("{rate: [1.0]}", "head_grid takes lists of lr and weight_decay, got rate"),
        ("{lr: 1.0}", r"head_grid\.lr must be a list of numbers, got 1\.0"),
        ("{lr: []}", "must be a list of numbers"),
        ("{lr: [a]}", "must be a list of numbers"),
        ("{lr: [0.0]}", "must be numbers above 0"),
        ("{weight_decay: [-1.0]}", "must be numbers from 0"),
    ],
)
def test_a_grid_of_anything_else_is_refused(tiny: Tiny, grid: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        tiny(*PROBE, f"recipe.head_grid={grid}")


def test_every_head_follows_the_schedule_at_its_own_rate(tiny: Tiny) -> None:
    recipe = tiny(*PROBE, "recipe.lr=0.1").recipe
    model: Any = vp.attach(make("vit"), vp.LinearProbe())
    settings = [{"lr": 0.1, "weight_decay": 0.2}, {"lr": 0.001, "weight_decay": 0.0}]
    spread_heads(model, settings)
    optimizer = create_optimizer(model, recipe)
    schedule = create_schedule(optimizer, recipe, epochs=2, updates_per_epoch=10)
    alone = create_optimizer(make("vit"), recipe)
    expected = create_schedule(alone, recipe, epochs=2, updates_per_epoch=10)
    for update in (0, 5, 15):
        schedule.step_update(update)
        expected.step_update(update)
        share = alone.param_groups[0]["lr"] / 0.1
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for head, setting in zip(model.head.heads, settings, strict=True):
            weight, bias = groups[id(head.weight)], groups[id(head.bias)]
            assert (weight["lr"], weight["weight_decay"]) == pytest.approx(
                (share * setting["lr"], setting["weight_decay"])
            )
            assert (bias["lr"], bias["weight_decay"]) == pytest.approx((share * setting["lr"], 0.0))
