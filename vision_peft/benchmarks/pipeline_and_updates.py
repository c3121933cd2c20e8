"""How fast images or clips come and updates go: the data pipeline alone, and training steps of settings in turn.

Machines are shared and noisy: what is worth quoting is the ratio of two settings whose updates alternate in one run.
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

import vision_peft as vp
from vision_peft.benchmarks.candidates import check_recipe_has_updates
from vision_peft.config.parse import Config
from vision_peft.data import ImageDataset, ImageDecodeError
from vision_peft.data.decoding.band_statistics import finish
from vision_peft.data.loading.bad_files import TooManyBadFiles
from vision_peft.data.loading.batches import resolve_workers
from vision_peft.data.loading.cache import keep_decoded
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.data.loading.measure_bands import measure_bands
from vision_peft.data.loading.samples import Batch
from vision_peft.distributed.device import (
    Compute,
    check_backbone_dtype,
    choose_compute,
    describe_device,
    peak_memory_mb,
    set_matmul_precision,
)
from vision_peft.distributed.processes import all_gather, join
from vision_peft.tasks import learn_task
from vision_peft.training.build import (
    attach_methods,
    check_items,
    check_methods,
    create_bare_model,
    input_settings,
    set_transforms,
)
from vision_peft.training.fit import queue_update, run_update
from vision_peft.training.step import TrainStep

WARM_UP = 2  # updates that are not counted


@dataclass(frozen=True)
class Pipeline:
    """Images or clips a second that the loader hands out while nothing else happens."""

    source: str  # files (of videos with the decoder's name), arrays, or kept decoded
    workers: int
    images_per_s: float | None  # or clips; None: this decoder cannot decode them


@dataclass(frozen=True)
class Steps:
    """Medians over the counted updates of one setting."""

    setting: str
    step_ms: float
    images_per_s: float  # or clips
    data_wait_share: float  # of the time of all counted updates
    ratio: float  # of step_ms to that of the first setting
    peak_memory_mb: float | None  # so far, of the process or the GPU


def measure_pipeline(config: Config, seconds: float = 5.0) -> list[Pipeline]:
    """Read the train split of `config` for about `seconds` each: without processes, with them, and kept decoded.

    Videos are read so by every decoder that is installed. Of several processes each reads its share, all at once.
    """
    join(_choose_compute(config), config.distributed.timeout_s)
    train_set, _ = _train_set_and_model(config)
    processes = sorted({0, resolve_workers(config.workers, train_set, device=_choose_compute(config).device)})
    kind = "arrays" if train_set.in_memory else "files"
    found = []
    for decoder in train_set.decoders or [""]:
        if decoder:
            train_set.use_decoder(decoder)
        source = f"{kind}, {decoder}" if decoder else kind
        found += [
            Pipeline(source, workers, _measure_speed(config, train_set, workers, seconds)) for workers in processes
        ]
    kept, _ = keep_decoded({"train": train_set}, ["train"], config.cache_mb, 0)
    if kept["train"].is_kept:
        kept["train"].prepare()
        found.append(Pipeline("kept decoded", 0, _measure_speed(config, kept["train"], 0, seconds)))
    return found


def check_has_updates(config: Config) -> None:
    """Raise ValueError where a training makes no updates that could be timed, or others than those of one head."""
    check_recipe_has_updates(config.recipe)
    if any(method.brings_head for method in config.methods):
        names = "+".join(method.name for method in config.methods)
        raise ValueError(f"method={names} trains nothing, so there are no updates to time: give method=linear")


def measure_steps(configs: dict[str, Config], updates: int = 10) -> list[Steps]:
    """Training updates of several settings, one of each in turn, so that noise meets all alike.

    Args:
        configs: what to measure, by the name it gets in the table; the first is what the others are compared with.
        updates: counted updates of each; their data comes as in training, kept decoded where it is then.

    Raises:
        ValueError: a setting whose training makes no such updates, before anything is loaded.
    """
    for config in configs.values():
        check_has_updates(config)
    runs = {name: run_updates(config) for name, config in configs.items()}
    times: dict[str, list[tuple[float, float, int]]] = {name: [] for name in configs}
    for number, (name, run) in itertools.product(range(WARM_UP + updates), runs.items()):
        taken = next(run)
        if number >= WARM_UP:
            times[name].append(taken)
    medians = {name: statistics.median(seconds for seconds, _, _ in taken) for name, taken in times.items()}
    first = next(iter(medians.values()))
    return [
        Steps(
            setting=name,
            step_ms=1000 * medians[name],
            images_per_s=statistics.median(items for _, _, items in times[name]) / medians[name],
            data_wait_share=sum(wait for _, wait, _ in times[name]) / sum(seconds for seconds, _, _ in times[name]),
            ratio=medians[name] / first,
            peak_memory_mb=peak_memory_mb(_choose_compute(config).device),
        )
        for name, config in configs.items()
    ]


def format_benchmark(config: Config, pipelines: list[Pipeline], steps: list[Steps]) -> str:
    """Write the figures as lines for a terminal."""
    where = _choose_compute(config)
    threads = f", {torch.get_num_threads()} threads" if where.device.type == "cpu" else ""
    wide = max(len(each.setting) for each in steps)
    items = "images/s" if config.backbone.num_frames is None else "clips/s"
    lines = [f"{'pipeline alone':<{wide}}  {'workers':>8}  {items:>9}"]
    for each in pipelines:
        speed = "no" if each.images_per_s is None else f"{each.images_per_s:,.0f}"
        lines.append(f"{each.source:<{wide}}  {each.workers:>8}  {speed:>9}")
    processes = f", {where.world_size} processes ({where.strategy})" if where.world_size > 1 else ""
    where_words = f"{describe_device(where.device)}, {where.precision}{threads}{processes}"
    title = f"training, batch {config.recipe.batch_size}, {where_words}"
    lines += ["", title, f"{'':<{wide}}  {'step ms':>8}  {items:>9}  {'waiting':>7}  {'ratio':>6}"]
    for each in steps:
        wait = f"{each.data_wait_share:.1%}"
        lines.append(
            f"{each.setting:<{wide}}  {each.step_ms:>8,.1f}  {each.images_per_s:>9,.1f}  {wait:>7}  {each.ratio:>5.2f}x"
        )
    return "\n".join(lines)


def to_json(config: Config, pipelines: list[Pipeline], steps: list[Steps]) -> dict[str, Any]:
    """Return the figures and what they were measured on."""
    compute = _choose_compute(config)
    return {
        "device": describe_device(compute.device),
        "precision": compute.precision,
        "processes": compute.world_size,
        "threads": torch.get_num_threads(),
        "batch_size": config.recipe.batch_size,
        "items": "images" if config.backbone.num_frames is None else "clips",
        "pipeline": [asdict(each) for each in pipelines],
        "steps": [asdict(each) for each in steps],
    }


def _choose_compute(config: Config) -> Compute:
    return choose_compute(config.device, config.precision, config.distributed.strategy)


def _train_set_and_model(config: Config) -> tuple[ImageDataset, Any]:
    train_set = config.data.load("train")
    check_items(config.backbone, config.data, train_set)
    model = create_bare_model(config)
    if train_set.bands is not None:
        train_set.bands.statistics = finish([measure_bands(train_set)[0]])
    set_transforms({"train": train_set}, input_settings(model, config.recipe, None, train_set), config.recipe)
    return train_set, model


def _loader(config: Config, train_set: ImageDataset, workers: int | str) -> TrainLoader:
    recipe = config.recipe
    return TrainLoader(
        train_set,
        recipe.batch_size // recipe.accumulate,
        config.seed,
        workers,
        **_choose_compute(config).share,
        device=_choose_compute(config).device,
        max_bad_fraction=config.max_bad_fraction,
        repeated_augmentation=recipe.repeated_augmentation,
        balanced=config.data.balanced,
    )


def _measure_speed(config: Config, train_set: ImageDataset, workers: int, seconds: float) -> float | None:
    batches, speed = _repeat_epochs(_loader(config, train_set, workers)), None
    with contextlib.suppress(ImageDecodeError, TooManyBadFiles):
        next(batches)  # starts the processes
        started, images = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            images += len(next(batches)[0])
        speed = images / (time.perf_counter() - started)
    speeds = all_gather(speed)
    known = [each for each in speeds if each is not None]
    return sum(known) if len(known) == len(speeds) else None


def _repeat_epochs(loader: TrainLoader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def run_updates(config: Config) -> Iterator[tuple[float, float, int]]:
    """One update at a time: seconds in all, seconds of them that went by waiting for data, and its items."""
    compute = _choose_compute(config)
    check_backbone_dtype(config.backbone_dtype, compute)
    join(compute, config.distributed.timeout_s)
    set_matmul_precision(compute.device, config.tf32)
    train_set, model = _train_set_and_model(config)
    task = learn_task(train_set, config.recipe)
    check_methods(config, task)
    model = attach_methods(model, config, train_set, task.outputs, compute.holds)
    splits, _ = keep_decoded({"train": train_set}, ["train"], config.cache_mb, config.workers, compute.processes_here)
    splits["train"].prepare()
    loss = task.create_loss(config.recipe, splits["train"])
    train_step = TrainStep(config, model, loss, len(train_set.classes), compute)
    update = queue_update if train_step.decides_on_device else run_update
    vp.train_mode(model, config.recipe.frozen_mode)
    batches = _repeat_epochs(_loader(config, splits["train"], config.workers))
    for number in itertools.count():
        started = time.perf_counter()
        result = update(train_step, batches, config.recipe.accumulate, (config.seed, number))
        torch.zeros((), device=compute.device).item()  # waits for the device
        yield time.perf_counter() - started, result.waited, len(result.samples) * compute.world_size
