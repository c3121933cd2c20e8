"""One training, from the checked config to `result.json`; `fit` is the loop.

Protocols: `val_select` trains on train and keeps the epoch that is best on val; `val_select_retrain` then trains a new
model on train + val for that many epochs, its schedule as long as that; `last_epoch` trains on train + val and keeps
the last epoch; `best_test` keeps the epoch that is best on test, as the older papers did, and is marked in every table.
All but `best_test` read test once, at the end. Best: the highest top-1, at a tie the lower loss, then the earlier.
"""

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import vision_peft as vp
from vision_peft.config.parse import Config, run_folder
from vision_peft.data import ImageDataset
from vision_peft.data.loading.cache import keep_decoded
from vision_peft.distributed.device import Compute, check_backbone_dtype, choose_compute, set_matmul_precision
from vision_peft.distributed.parallel import load_tuned
from vision_peft.distributed.processes import (
    Heartbeat,
    all_gather,
    all_reduce_sum,
    join,
    on_rank0,
    print_rank0,
    rank0_first,
)
from vision_peft.distributed.stopping import (
    FROM_SCHEDULER,
    Interrupted,
    StoppedBefore,
    StopRequests,
    catch_signals,
    is_restart_after_stop,
    mark_requeue,
    stop_decision,
    unmark_requeue,
)
from vision_peft.results.row import Row, write_row
from vision_peft.results.table import format_rows
from vision_peft.runs.checkpoint import newest_state, save_errors
from vision_peft.runs.run_folder import RESULT, Run, SilentRun, find_finished_row, open_folder
from vision_peft.training.build import attach_methods, create_model, input_settings, load_splits, set_transforms
from vision_peft.training.cached_features import cached_features
from vision_peft.training.evaluate import (
    Metrics,
    create_eval_loader,
    evaluate,
    format_metrics,
    write_confusion,
)
from vision_peft.training.fit import Progress, State, Training, fit
from vision_peft.training.report import (
    capture_log,
    describe_other_processes,
    describe_processes,
    describe_run,
    make_row,
)
from vision_peft.training.step import Timing


class Phase(NamedTuple):
    """A training from scratch, of which a protocol has one or two."""

    name: str
    trained: str  # split that is trained on
    watched: str | None = None  # split that is evaluated after every epoch


PHASES = {  # of a protocol
    "val_select": [Phase("select", "train", "val")],
    "val_select_retrain": [Phase("select", "train", "val"), Phase("retrain", "trainval")],
    "last_epoch": [Phase("train", "trainval")],
    "best_test": [Phase("train", "trainval", "test")],
}


def train(config: Config, command: str = "") -> Row:
    """Train as `config` says, resume, or report the run that is there already; returns the row of its result.json.

    Started by torchrun, the processes train together; the one of rank 0 writes and speaks.

    Raises:
        ValueError, OSError: what the user can mend, before anything is written.
        Interrupted: stopped on request, with the state saved.
        FloatingPointError: the loss or the gradient stays non-finite.
        LostProcess: another process died or hangs.
    """
    compute = choose_compute(config.device, config.precision, config.distributed.strategy)
    check_backbone_dtype(config.backbone_dtype, compute)
    set_matmul_precision(compute.device, config.tf32)
    join(compute, config.distributed.timeout_s)
    if config.dry_run:
        return _dry_run(config, compute)
    folder = run_folder(config)
    row = on_rank0(lambda: find_finished_row(config, folder))
    if row is not None:
        if compute.is_main:
            print(f"{folder} is finished (overwrite=true starts it over):\n\n{format_rows([row])}", flush=True)
        return row
    if on_rank0(lambda: is_restart_after_stop(folder, config.requeue_file)):
        stop = StoppedBefore(folder)
        print_rank0(str(stop))
        raise stop
    requests = StopRequests(config.max_time)
    with catch_signals(requests, FROM_SCHEDULER), Heartbeat().raise_lost_process():
        with rank0_first():
            splits = load_splits(config)
        return _run(config, splits, folder, requests, compute, command)


def _run(
    config: Config,
    splits: Mapping[str, ImageDataset],
    folder: Path,
    requests: StopRequests,
    compute: Compute,
    command: str,
) -> Row:
    with capture_log("vision_peft.backbones") as about_weights, rank0_first():
        model = _bare_model(config)
    settings = input_settings(model, config.recipe)
    set_transforms(splits, settings, config.recipe)
    phases = PHASES[config.protocol]
    model = attach_methods(model, config, splits[phases[0].trained], compute.holds)
    with contextlib.ExitStack() as opened:
        on_rank0(lambda: _hold(folder, config, opened))
        state = newest_state(folder / "state")
        progress = Progress.of(state)
        run = Run(folder, progress.step, progress.lines) if compute.is_main else SilentRun(folder)
        opened.callback(run.close)
        training = Training(config, compute, run, Timing(), requests)
        try:
            for words in (*about_weights, describe_run(config, model, splits, folder, compute)):
                run.say(words)
            on_rank0(lambda: unmark_requeue(folder, config.requeue_file))
            if state:
                left = f"epoch {progress.epoch + 1}" if progress.epoch < config.recipe.epochs else "all epochs are done"
                others = describe_other_processes(progress.processes, compute)
                run.say(f"resuming from update {progress.step} ({left}){others}")
            progress.processes = describe_processes(compute)
            often = [split for phase in phases for split in (phase.trained, phase.watched) if split]
            splits, words = keep_decoded(splits, often, config.cache_mb, config.workers, compute.processes_here)
            if words:
                run.say(words)
            model, kept = _trained(training, model, splits, progress, state)
            if stop := stop_decision(all_reduce_sum(requests.votes()), progress.step):  # since the last update
                raise stop
            return _delivered(training, model, kept, splits, progress, settings, command)
        except Interrupted as stop:
            run.say(str(stop))
            if compute.is_main and stop.wants_requeue:
                mark_requeue(folder, config.requeue_file)
            raise


def _hold(folder: Path, config: Config, opened: contextlib.ExitStack) -> None:
    """Open the run folder; its lock is let go with `opened`."""
    opened.enter_context(open_folder(config, folder))


def _trained(
    training: Training, model: Any, splits: Mapping[str, ImageDataset], progress: Progress, state: State | None
) -> tuple[Any, dict[str, Tensor]]:
    """Go through what is left of the phases; the model of the last one and the tuned tensors to keep."""
    config, compute, run = training.config, training.compute, training.run
    kept: dict[str, Tensor] = {}
    for number, phase in enumerate(PHASES[config.protocol]):
        if number < progress.phase:
            continue
        epochs = config.recipe.epochs
        if number:
            epochs = progress.best["epoch"] if progress.best else epochs
            run.say(f"val chose {epochs} epochs: training a new model on {phase.trained} for as many")
            model = attach_methods(_bare_model(config), config, splits[phase.trained], compute.holds)
        if number > progress.phase:
            progress.phase, progress.epoch, state = number, 0, None
        train_set, watched = splits[phase.trained], splits[phase.watched] if phase.watched else None
        started = time.perf_counter()
        with cached_features(model, train_set, watched, config, compute) as (train_set, watched, words):
            if words:
                run.say(words)
            progress.seconds += time.perf_counter() - started
            kept = fit(training, model, phase.name, train_set, watched, epochs, progress, state)
    return model, kept


def _delivered(
    training: Training,
    model: Any,
    kept: Mapping[str, Tensor],
    splits: Mapping[str, ImageDataset],
    progress: Progress,
    settings: Mapping[str, Any],
    command: str,
) -> Row:
    """Write the adapter, read test, write the files of a run that is done."""
    config, compute, run = training.config, training.compute, training.run
    classes = next(iter(splits.values())).classes
    load_tuned(model, kept)
    plain = model
    if compute.sharded:  # an adapter belongs to a model, not to shards of one
        plain = attach_methods(_bare_model(config), config, splits[PHASES[config.protocol][0].trained], compute.holds)
        vp.load_tuned(plain, kept)
    on_rank0(lambda: _save_adapter(plain, run.folder / "adapter", classes, settings))
    metrics = None
    if config.read_test:
        batches = create_eval_loader(splits["test"], compute, config.workers, config.bad_eval, run.bad_files)
        metrics = evaluate(model, batches, classes, compute)
        run.say(f"test: {format_metrics(metrics)}")
        run.record("test", progress.step, {"top1": metrics.top1, "mean_per_class": metrics.mean_per_class})
    on_rank0(run.write_out)
    done = metrics, progress.best, progress.history, progress.seconds, training.timing
    row = on_rank0(lambda: _finish(run.folder, config, plain, splits, *done, run.folder, settings, compute, command))
    run.say(f"\n{format_rows([row])}\n\n{run.folder}")
    return row


def _save_adapter(model: Any, folder: Path, classes: list[str], settings: Mapping[str, Any]) -> None:
    with save_errors(folder):
        vp.save_adapter(model, folder, class_names=classes, input_config=settings)


def _finish(folder: Path, config: Config, model: Any, splits: Any, metrics: Metrics | None, *rest: Any) -> Row:
    """Write the files of a run that is done."""
    row = make_row(config, model, splits, metrics, *rest)
    with save_errors(folder / RESULT):
        if metrics is not None:
            write_confusion(folder / "confusion.csv", metrics)
        write_row(folder / RESULT, row)
    return row


def _bare_model(config: Config) -> Any:
    return create_model(config.backbone, config.seed, config.recipe.drop_path)


def _dry_run(config: Config, compute: Compute) -> Row:
    """One batch of train and val, a state and an adapter saved and loaded, in a folder that is gone afterwards."""
    with rank0_first():
        splits = load_splits(config)
    train_set = splits["train" if "train" in splits else "trainval"]
    val_set = splits["val"] if "val" in splits else config.data.load("val")
    recipe = dataclasses.replace(config.recipe, epochs=1)
    changes: dict[str, Any] = {"protocol": "val_select", "read_test": False, "save_every": None, "dry_run": False}
    print_rank0("dry run: one batch of train and val in a temporary folder; test is not read")
    folder = on_rank0(tempfile.mkdtemp)
    try:
        small = dataclasses.replace(config, recipe=recipe, output_dir=folder, **changes)
        size = max(recipe.batch_size // recipe.accumulate, compute.world_size) * recipe.accumulate
        parts = {"train": train_set.first(size), "val": val_set.first(val_set.eval_batch_size)}
        row = _run(small, parts, run_folder(small), StopRequests(None), compute, "")
        state = newest_state(run_folder(small) / "state")
        loaded = vp.tuned_state_dict(vp.load_adapter(_bare_model(small), run_folder(small) / "adapter"))
        trained = attach_methods(_bare_model(small), small, parts["train"], compute.holds)
        vp.load_tuned(trained, state[0]["best"] if state else {})
        kept = {name: tensor.cpu() for name, tensor in vp.tuned_state_dict(vp.bake(trained)).items()}
        if kept.keys() != loaded.keys() or not all(torch.allclose(kept[name], loaded[name]) for name in kept):
            raise RuntimeError("what was saved is not what was loaded")
        all_gather(None)  # nobody deletes what another still reads
    finally:
        if compute.is_main:
            shutil.rmtree(folder, ignore_errors=True)
    print_rank0("dry run passed: trained, evaluated, saved and loaded one batch; nothing was kept")
    return row
