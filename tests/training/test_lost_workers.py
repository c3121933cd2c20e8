"""A loader process that dies is named as that wherever the main process is, and the run resumes bit for bit."""

import functools
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_run import EVERYTHING, left_behind, tiny_config

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data.loading import batches as batches_module
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.data.loading.lost_workers import LostWorker
from vision_peft.distributed.device import Compute
from vision_peft.runs import checkpoint, run
from vision_peft.runs.checkpoint import newest_state
from vision_peft.tasks import classes
from vision_peft.training import fit, step
from vision_peft.training.build import load_splits
from vision_peft.training.evaluation import create_eval_loader
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
SETTINGS = [*EVERYTHING, "save_every=1", "cache_mb=0", "workers=1"]
# Where the worker dies: what is called there, and the how many-th time.
PLACES = {
    "data": (fit, "seed_everything", 4),
    "mixing": (fit, "apply_mixup", 4),
    "loss": (step.TrainStep, "compute_loss", 4),
    "gradient": (fit, "gradient_norm", 2),
    "agreement": (fit, "all_reduce_sum", 2),
    "clipping": (fit, "clip_gradients", 2),
    "average": (fit, "update_average", 2),
    "evaluation": (fit, "evaluate_heads", 1),
    "answers": (classes.F, "cross_entropy", 7),  # six of training come before
    "metrics": (run.Run, "flush", 2),
    "state": (torch, "save", 2),
    "checksums": (checkpoint, "_publish", 2),
    "old states": (checkpoint, "_purge", 2),
}
ALWAYS = ("data", "agreement", "evaluation", "state")  # the others are slow tests


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = tiny_config(photos, tmp_path_factory.mktemp("whole"), *SETTINGS)
    train(config)
    return left_behind(run_folder(config))


def kill_at(place: Any, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real` at whose call number `place` a loader process is killed and the main process hears of it right there."""
    calls = itertools.count(1)

    @functools.wraps(real)
    def kill(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == place:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            for _ in range(20):  # signals are handled between instructions of Python
                time.sleep(0.01)
        return real(*arguments, **keywords)

    return kill


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=() if place in ALWAYS else pytest.mark.slow) for place in PLACES]
)
def test_a_lost_worker_is_named_wherever_it_strikes_and_the_run_resumes(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any], place: str
) -> None:
    owner, name, number = PLACES[place]
    config = tiny(*SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill_at(number, getattr(owner, name)))
        with pytest.raises(LostWorker, match=r"^DataLoader worker \(pid\(?s?\)? \d+\)"):
            train(config)
    assert newest_state(run_folder(config) / "state") is not None
    assert not list(run_folder(config).rglob("*.tmp"))
    train(config)
    assert left_behind(run_folder(config)) == undisturbed


def test_pinned_memory_and_workers_follow_the_device_not_the_machine(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[bool, bool]] = []

    def note(*_: Any, **settings: Any) -> list[Any]:
        made.append((settings["pin_memory"], settings["num_workers"] > 0))
        return []

    train_set = load_splits(tiny())["train"]
    train_set.in_memory = True
    monkeypatch.setattr(batches_module, "DataLoader", note)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cpu", "cuda"):
        TrainLoader(train_set, 8, 0, device=torch.device(device))
        create_eval_loader(train_set, Compute(torch.device(device), "fp32"), "auto")
    measured_first = (True, False)  # training takes workers when it knows how long a batch takes
    assert made == [(False, False), (False, False), measured_first, (True, True)]


def test_the_loop_loads_for_the_device_that_it_trains_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []

    def note(*arguments: Any, **settings: Any) -> TrainLoader:
        devices.append(settings["device"])
        return TrainLoader(*arguments, **settings)

    monkeypatch.setattr(fit, "TrainLoader", note)
    train(tiny("recipe.epochs=1"))
    assert devices == [torch.device("cpu")]
