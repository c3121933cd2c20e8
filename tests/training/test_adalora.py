"""A training with AdaLoRA: the budget falls while it runs, and a killed run goes on bit for bit."""

from collections.abc import Callable

import torch
from safetensors.torch import load_file
from support.killed import killed_at
from support.tiny_run import left_behind

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.training.trained import train

# 3 updates an epoch: rows fall from the 4th of 12 on and are fixed at the 9th
RUN = [
    "method=adalora",
    "method.rank=4",
    "method.target_rank=1",
    "method.targets=[proj,fc1]",
    "method.warmup=0.25",
    "method.final=0.25",
    "recipe.epochs=4",
    "recipe.lr=1e-2",
    "save_every=2",
]


def test_a_killed_run_keeps_its_scores_and_ends_with_the_same_rows(tiny: Callable[..., Config]) -> None:
    whole, killed = tiny(*RUN, folder="whole"), tiny(*RUN, folder="killed")
    train(whole)
    for step in (5, 11):
        killed_at((step, 0), killed)
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))


def test_the_trainer_makes_the_budget_fall_to_the_target(tiny: Callable[..., Config]) -> None:
    config = tiny(*RUN, "protocol=val_select_retrain", "recipe.epochs=4")
    train(config)
    tensors = load_file(run_folder(config) / "adapter" / "adapter.safetensors")
    values = torch.cat([tensor.flatten() for name, tensor in tensors.items() if name.endswith("adalora.E")])
    assert len(values) == 2 * 2 * 4
    assert (values != 0).sum() == 4
    assert not [name for name in tensors if "scores" in name]
