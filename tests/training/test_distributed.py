"""Two processes compute what one does, with whole models and with shards, and resume bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training.processes import Job, in_two_processes, losses, run_job, updated

import vision_peft as vp

Left = dict[str, dict[str, Any]]
FSDP2 = "distributed.strategy=fsdp2"
# Everything that keeps a state or draws a number: 24 images in batches of 8 are 3 updates an epoch of 2 parts each.
EVERYTHING = [
    "method.dropout=0.3",
    "recipe.accumulate=2",
    "recipe.ema=0.9",
    "recipe.mixup=0.4",
    "recipe.cutmix=0.5",
    "recipe.augment=crop_flip",
    "recipe.random_erasing=0.3",
    "recipe.clip_grad=1",
    "recipe.head=batchnorm_linear",
    "recipe.frozen=train",
    "recipe.drop_path=0.2",
    "recipe.epochs=3",
    "cache_mb=0",
]
KILLS = {
    "mid-epoch": ((4, 0), ["save_every=2"]),
    "mid-accumulation": ((5, 1), ["save_every=2"]),
    "epoch end": ((6, 0), ["save_every=null"]),
    "validation": ("evaluation", ["save_every=3"]),
}
# What draws no number of its own, so that it does not depend on who computes which image.
SAME = ["recipe.epochs=7", "recipe.lr=1e-3", "recipe.clip_grad=1", "recipe.augment=crop_flip"]
METHODS = [name for name, method in vp.METHODS.items() if not method.video]


def jobs() -> list[Job]:
    made = []
    for strategy, more in (("ddp", []), ("fsdp2", [FSDP2])):
        made.append(Job(f"same {strategy}", [*SAME, "method.dropout=0", *more]))
        made.append(Job(f"backbone {strategy}", [*SAME, "method=full", *more]))
        made.append(Job(f"batchnorm {strategy}", [*SAME, "method.dropout=0", "recipe.head=batchnorm_linear", *more]))
        for kind, trained in (("adapters", []), ("full", ["method=full", "recipe.lr=1e-4"])):
            everything = [each for each in EVERYTHING if kind == "adapters" or not each.startswith("method.")]
            base = [*everything, *trained, *more]
            made.append(Job(f"whole {kind} {strategy}", base))
            for where, (kill, saves) in KILLS.items():
                if kind == "adapters" or where == "mid-accumulation":
                    made.append(Job(f"{where} {kind} {strategy}", [*base, *saves], kill))
        made.append(Job(f"workers {strategy}", [*EVERYTHING, "save_every=2", "workers=2", *more], (4, 0)))
    made.append(Job("to ddp", [*SAME, "method=full", "save_every=4", FSDP2], (9, 0), ["distributed.strategy=ddp"]))
    made.append(Job("to fsdp2", [*SAME, "method=full", "save_every=4"], (9, 0), [FSDP2]))
    return made


@pytest.fixture(scope="module")
def two(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What all jobs leave behind in two processes."""
    return in_two_processes(jobs(), METHODS, photos, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("same", ["method.dropout=0"]),
        ("backbone", ["method=full"]),
        ("batchnorm", ["method.dropout=0", "recipe.head=batchnorm_linear"]),
    ],
)
def test_two_processes_have_the_losses_of_one_over_twenty_updates(
    two: Left, photos: Path, folder: Path, name: str, overrides: list[str], strategy: str
) -> None:
    one = run_job(Job(f"{name} {strategy}", [*SAME, *overrides]), photos, folder)
    expected, found = losses(one), losses(two[f"{name} {strategy}"])
    assert len(found) == 21
    assert found == pytest.approx(expected, abs=1e-5)
    assert two[f"{name} {strategy}"]["confusion"] == one["confusion"]
    assert losses(two[f"{name} ddp"]) == pytest.approx(losses(two[f"{name} fsdp2"]), abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_on_two_processes_what_it_learns_on_one(two: Left, name: str, strategy: str) -> None:
    expected, found = updated(name, "ddp"), two[f"method {name} {strategy}"]
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["tuned"].keys() == expected["tuned"].keys()
    for tensor, wanted in zip(found["tuned"].values(), expected["tuned"].values(), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("where", [*KILLS, "workers"])
def test_two_killed_processes_resume_bit_for_bit(two: Left, where: str, strategy: str) -> None:
    killed = f"{where} {strategy}" if where == "workers" else f"{where} adapters {strategy}"
    assert two[killed] == two[f"whole adapters {strategy}"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_backbone_that_trains_resumes_bit_for_bit(two: Left, strategy: str) -> None:
    assert two[f"mid-accumulation full {strategy}"] == two[f"whole full {strategy}"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_goes_on_with_the_other_strategy(two: Left, strategy: str) -> None:
    assert losses(two[f"to {strategy}"]) == pytest.approx(losses(two[f"backbone {strategy}"]), abs=1e-5)
