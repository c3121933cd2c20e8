"""Trainings of a second each in two processes that meet once: starting a process takes longer than all of them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from support.families import attach
from support.killed import Place, killed_at
from support.pair import in_two_processes
from support.tiny_run import TINY, left_behind, tiny_config

import vision_peft as vp
from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.device import choose_compute, seed_everything
from vision_peft.distributed.parallel import full_tensor
from vision_peft.distributed.processes import join
from vision_peft.tasks.classes import CrossEntropy
from vision_peft.training import progress as progress_module
from vision_peft.training.build import create_model
from vision_peft.training.fit import run_update
from vision_peft.training.step import TrainStep
from vision_peft.training.trained import train


@dataclass(frozen=True)
class Job:
    """One training, or one that is killed and started again."""

    name: str
    overrides: Sequence[str] = ()
    kill: Place | None = None
    again: Sequence[str] = ()  # further overrides of the second start


def losses(left: dict[str, Any]) -> list[float]:
    """Of every update that metrics.jsonl tells."""
    return [line["loss"] for line in left["metrics"] if line["kind"] == "step"]


def run_job(job: Job, photos: Path, output_dir: Path) -> dict[str, Any]:
    """Run `job` in this process, with all others of its group, and tell what is left behind."""
    config = tiny_config(photos, output_dir / job.name.replace(" ", "_"), *job.overrides)
    if job.kill is not None:
        killed_at(job.kill, config)
        config = tiny_config(photos, output_dir / job.name.replace(" ", "_"), *job.overrides, *job.again)
    train(config)
    return left_behind(run_folder(config))


@functools.cache
def _config_of_updates() -> Config:
    return compose_config([*TINY, "recipe.optimizer=sgd", "recipe.lr=0.1"])


def updated(name: str, strategy: str) -> dict[str, Any]:
    """Losses and tuned tensors of three updates with a method on random images that the processes share."""
    random = [key for key in ("dropout", "drop_path") if key in vp.METHODS[name].__dataclass_fields__]
    method = vp.METHODS[name](**dict.fromkeys(random, 0.0))
    config = replace(_config_of_updates(), methods=(method,))
    compute = choose_compute("cpu", "fp32", strategy)
    images = torch.randn(3, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seed_everything(0)
    model: Any = create_model(config.backbone, 0)
    attach(model, method)
    vp.train_mode(vp.replace_head(model, "linear", 4))
    train_step, found = TrainStep(config, model, CrossEntropy(), 4, compute), []
    labels = torch.arange(8) % 4
    share = slice(8 * compute.rank // compute.world_size, 8 * (compute.rank + 1) // compute.world_size)
    for step, batch in enumerate(images):
        result = run_update(train_step, iter([(batch[share], labels[share], labels[share])]), 1, [step])
        found.append(result.loss)
    return {
        "losses": found,
        "tuned": {key: full_tensor(tensor).clone() for key, tensor in vp.tuned_state_dict(model).items()},
    }


def done_by_two(jobs: Sequence[Job], methods: Sequence[str], photos: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What every job left behind, by its name, and what every method learned; all in the same two processes."""
    first, _ = in_two_processes(functools.partial(_do, jobs=jobs, methods=methods, photos=photos), folder)
    return first["given"]


def _do(_: int, folder: Path, jobs: Sequence[Job], methods: Sequence[str], photos: Path) -> dict[str, Any]:
    progress_module.SHORTEST_BETWEEN_EPOCHS_SECONDS = 0
    join(choose_compute("cpu", "fp32"), 120)
    results = {
        f"method {name} {strategy}": updated(name, strategy) for name in methods for strategy in ("ddp", "fsdp2")
    }
    return results | {job.name: run_job(job, photos, folder) for job in jobs}
