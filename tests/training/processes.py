"""Trainings of a second each in two processes that meet once: starting a process takes longer than all of them."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.spawn import spawn
from training.tiny_run import TINY, tiny_config

import vision_peft as vp
from vision_peft.results.row import read_row
from vision_peft.training import evaluate as evaluate_module
from vision_peft.training import fit as fit_module
from vision_peft.training import learner as learner_module
from vision_peft.training.build import create_model
from vision_peft.training.command_line import compose_config
from vision_peft.training.config import Config, run_folder
from vision_peft.training.device import choose_compute, seed_everything
from vision_peft.training.distributed import join, total
from vision_peft.training.learner import Learner
from vision_peft.training.parallel import whole
from vision_peft.training.train import train


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@dataclass(frozen=True)
class Job:
    """One training, or one that is killed and started again."""

    name: str
    overrides: Sequence[str] = ()
    kill: tuple[int, int] | str | None = None  # before (update, part) from 0, or in the second "evaluation"
    again: Sequence[str] = field(default_factory=tuple)  # further overrides of the second start


def left_behind(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves and that must not depend on whether it was killed."""
    row = read_row(folder / "result.json")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files = {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}
    return {"adapter": files, "curve": row.curve, "top1": row.top1, "confusion": row.confusion, "metrics": lines}


def losses(left: dict[str, Any]) -> list[float]:
    """Of every update that metrics.jsonl tells."""
    return [line["loss"] for line in left["metrics"] if line["kind"] == "step"]


def run_job(job: Job, photos: Path, output_dir: Path) -> dict[str, Any]:
    """Run `job` in this process, with all others of its group, and tell what is left behind."""
    config = tiny_config(photos, output_dir / job.name.replace(" ", "_"), *job.overrides)
    if job.kill is not None:
        killed_once(config, job.kill)
        config = tiny_config(photos, output_dir / job.name.replace(" ", "_"), *job.overrides, *job.again)
    train(config)
    return left_behind(run_folder(config))


def killed_once(config: Config, kill: tuple[int, int] | str) -> None:
    """Train until `kill` and die there."""
    calls = iter([False, True])
    real_seed, real_evaluate = learner_module.seed_everything, evaluate_module.evaluate

    def seed(*key: Any) -> None:
        if key[2:4] == kill:
            raise Killed
        real_seed(*key)

    def evaluate(*arguments: Any) -> Any:
        if kill == "evaluation" and next(calls):
            raise Killed
        return real_evaluate(*arguments)

    with (
        mock.patch.object(learner_module, "seed_everything", seed),
        mock.patch.object(fit_module, "evaluate", evaluate),
    ):
        try:
            train(config)
        except Killed:
            return
    raise AssertionError(f"nothing died at {kill}")


def updated(name: str, strategy: str) -> dict[str, Any]:
    """Losses and tuned tensors of three updates with a method on random images that the processes share."""
    random = [key for key in ("dropout", "drop_path") if key in vp.METHODS[name].__dataclass_fields__]
    config = compose_config(
        [*TINY, f"method={name}", *(f"method.{key}=0" for key in random), "recipe.optimizer=sgd", "recipe.lr=0.1"]
    )
    compute = choose_compute("cpu", "fp32", strategy)
    images = torch.randn(3, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seed_everything(0)
    model: Any = create_model(config.backbone, 0)
    for method in config.methods:
        vp.attach(model, method)
    vp.train_mode(vp.replace_head(model, "linear", 4))
    learner, found = Learner(config, model, 4, compute), []
    labels = torch.arange(8) % 4
    share = slice(8 * compute.rank // compute.world_size, 8 * (compute.rank + 1) // compute.world_size)
    for step, batch in enumerate(images):
        outcome = learner.backward(iter([(batch[share], labels[share], labels[share])]), 1, step)
        found.append(total([outcome.loss])[0] / compute.world_size)
        learner.step()
    return {
        "losses": found,
        "tuned": {key: whole(tensor).clone() for key, tensor in vp.tuned_state_dict(model).items()},
    }


def in_two_processes(
    jobs: Sequence[Job], methods: Sequence[str], photos: Path, folder: Path
) -> dict[str, dict[str, Any]]:
    """What every job left behind, by its name, and what every method learned; all in the same two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(_process, (port, list(jobs), list(methods), photos, folder), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=True)


def _process(rank: int, port: int, jobs: list[Job], methods: list[str], photos: Path, folder: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "localhost", **{name: str(value) for name, value in place.items()}}
    torch.set_num_threads(1)
    fit_module.SHORTEST_BETWEEN_EPOCHS_SECONDS = 0
    join(choose_compute("cpu", "fp32"), 120)
    results = {
        f"method {name} {strategy}": updated(name, strategy) for name in methods for strategy in ("ddp", "fsdp2")
    }
    results |= {job.name: run_job(job, photos, folder) for job in jobs}
    if rank == 0:
        torch.save(results, folder / "results.pt")
