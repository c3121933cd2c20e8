"""Banks of tiny models, the tuned models whose adapters are in them, and the batches that compare the two."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from support.families import attach, images, randomise_tuned, tiny

import vision_peft as vp
from vision_peft.tuning.short_block import whole_last_block


def tune(family: str, methods: Sequence[vp.Method], classes: int, seed: int = 2) -> Any:
    """A tiny model of ``family`` with ``methods`` and a head of its own, all of random values, in eval mode."""
    model = tiny(family)
    if classes:
        vp.replace_head(model, "linear", classes)
    else:
        model.reset_classifier(0)
    for method in methods:
        attach(model, method)
    randomise_tuned(model, seed)
    return model.eval()


def fill(bank: vp.Bank, tuned: Mapping[str, Any], folder: Path) -> None:
    """Save every model of ``tuned`` below ``folder`` and add it to ``bank`` under its name."""
    for name, model in tuned.items():
        bank.add(name, vp.save_adapter(model, folder / name))


def mix(names: Sequence[str], each: int = 2, seed: int = 0) -> list[str]:
    """Every name ``each`` times, in random order."""
    every = [name for name in names for _ in range(each)]
    return [every[place] for place in torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))]


@torch.no_grad()
def worst_difference(bank: vp.Bank, tuned: Mapping[str, Any], tasks: Sequence[str]) -> float:
    """The largest difference of a mixed batch's logits from those of each single model on its images alone.

    Banks compute whole blocks, so the single models do here.
    """
    batch = images(next(iter(tuned.values())), batch=len(tasks))
    answers = bank(batch, tasks)
    worst = 0.0
    for name, model in tuned.items():
        rows = [row for row, task in enumerate(tasks) if task == name]
        if rows:
            with whole_last_block(model):
                expected = model(batch[rows])
            assert [tuple(answers[row].shape) for row in rows] == [tuple(expected.shape[1:])] * len(rows)
            worst = max(worst, float((torch.stack([answers[row] for row in rows]) - expected).abs().max()))
    return worst
