"""The loop, read from top to bottom: updates, epochs, what is watched, what is saved."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.data import ImageDataset
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.distributed.device import Compute
from vision_peft.distributed.parallel import all_finite, full_tensor, load_tuned
from vision_peft.distributed.processes import Heartbeat, all_gather, all_reduce_sum, on_rank0
from vision_peft.distributed.stopping import FROM_KEYBOARD, StopRequests, catch_signals, stop_decision
from vision_peft.runs.checkpoint import SaveError, save_state
from vision_peft.runs.run_folder import Run, format_time_left
from vision_peft.runs.train_state import TrainState
from vision_peft.training.evaluate import create_eval_loader, evaluate
from vision_peft.training.optim import create_schedule, update_average
from vision_peft.training.step import StepResult, Timing, TrainStep

LONGEST_UNSAVED_SECONDS = 300
SHORTEST_BETWEEN_EPOCHS_SECONDS = 10  # an epoch on kept features takes milliseconds, a state that lasts takes longer
State = tuple[dict[str, Any], Path]  # the entries of a saved state, and its folder
_WAYS_OUT = "try a lower recipe.lr, recipe.clip_grad=1 or precision=fp32"


@dataclass
class Progress:
    """How far a run is; with the tensors, all that a state holds."""

    phase: int = 0
    step: int = 0  # updates done, over all phases
    epoch: int = 0  # epochs of this phase that are done
    update: int = 0  # updates done of the epoch that is not
    loss_sum: float = 0.0  # over those of these updates that were not skipped
    skipped: int = 0  # of these updates, with a non-finite loss or gradient
    bad_steps: int = 0  # updates skipped in a row, up to now
    seconds: float = 0.0  # of training and watching
    lines: int = 0  # of metrics.jsonl
    processes: str = ""  # that did the last updates: number and strategy
    best: dict[str, Any] | None = None  # the history entry of the chosen epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch, over all phases

    @classmethod
    def of(cls, state: State | None) -> "Progress":
        """How far the run was that `state` is of; ValueError where another version of this file wrote it."""
        if state is None:
            return cls()
        entries, path = state
        names = {entry.name for entry in dataclasses.fields(cls)}
        tensors = {"sharded"} if "sharded" in entries else {"tuned", "average", "moments"}
        found = entries.get("progress")
        if not isinstance(found, dict) or found.keys() != names or not {"scaler", "best", *tensors} <= entries.keys():
            raise ValueError(
                f"{path} is not a state as this version of vision_peft saves it: end the run with the version that "
                "began it, or start over with overwrite=true"
            )
        return cls(**found)


@dataclass(frozen=True)
class Training:
    """What all phases of a training share."""

    config: Config
    compute: Compute
    run: Run
    timing: Timing
    requests: StopRequests


def fit(
    training: Training,
    model: nn.Module,
    phase: str,
    train_set: ImageDataset,
    watched: ImageDataset | None,
    epochs: int,
    progress: Progress,
    state: State | None,
) -> dict[str, Tensor]:
    """Train the tuned micro_batches of `model` for `epochs`, from `state` if there is one.

    Returns:
        The tuned tensors to keep, whole and on the CPU: of the best epoch on `watched`, or of the last one.
    """
    config, compute, run, timing = training.config, training.compute, training.run, training.timing
    recipe, requests = config.recipe, training.requests
    loader = TrainLoader(
        train_set,
        recipe.batch_size // recipe.accumulate,
        config.seed,
        config.workers,
        **compute.share,
        max_bad_fraction=config.max_bad_fraction,
        bad_files=run.bad_files,
        repeated_augmentation=recipe.repeated_augmentation,
        balanced=config.data.balanced,
    )
    updates = max(loader.batches_per_epoch // recipe.accumulate, 1)
    micro_batches = min(recipe.accumulate, loader.batches_per_epoch)
    train_step = TrainStep(config, model, len(train_set.classes), compute)
    schedule = create_schedule(train_step.optimizer, recipe, epochs, updates)
    tuned = vp.tuned_state_dict(model)  # views: they follow the training
    average = {name: tensor.clone() for name, tensor in tuned.items()} if recipe.ema else None
    train_state, best, heartbeat = TrainState(model, tuned, average, train_step.optimizer), {}, Heartbeat()
    if state:
        train_state.load_state_dict(*state)
        train_step.scaler.load_state_dict(state[0]["scaler"])
        best = state[0]["best"]
    seconds_before, started, saved = progress.seconds, time.perf_counter(), time.monotonic()

    def save() -> None:
        nonlocal saved
        if not all_finite(tuned.values()):
            raise FloatingPointError(f"tuned tensors are no longer finite after update {progress.step}: {_WAYS_OUT}")
        progress.seconds, progress.lines = seconds_before + time.perf_counter() - started, run.lines
        entries = {"progress": dataclasses.asdict(progress), "scaler": train_step.scaler.state_dict(), "best": best}
        shards = None
        if compute.sharded:
            entries["sharded"], shards = train_state.sharded_state_dict()
        else:
            entries |= train_state.state_dict()
        try:
            on_rank0(run.write_out)
            save_state(run.folder / "state", progress.step, entries, config.keep_states, shards)
        except SaveError as error:
            if config.on_save_error == "stop":
                raise
            run.say(f"warning: {error}; training goes on without it (on_save_error=warn)")
        saved = time.monotonic()

    with catch_signals(requests, FROM_KEYBOARD), contextlib.closing(train_step.parallel):
        while progress.epoch < epochs and not _out_of_patience(recipe.early_stopping, progress):
            vp.train_mode(model, recipe.frozen_mode)
            batches = loader.epoch(progress.epoch, start_batch=progress.update * micro_batches)
            stop = None
            while progress.update < updates:
                update_started = time.perf_counter()
                schedule.step_update(progress.epoch * updates + progress.update)
                rate = max(group["lr"] for group in train_step.optimizer.param_groups)
                result = train_step.backward(batches, micro_batches, config.seed, phase, progress.step)
                late = not config.save_every and time.monotonic() - saved > LONGEST_UNSAVED_SECONDS
                asked = [result.loss / compute.world_size, not result.finite, late, *requests.votes()]
                loss, bad, late, *votes = all_reduce_sum(asked)
                where = f"epoch {progress.epoch + 1}/{epochs}  update {progress.update + 1}/{updates}"
                progress.step, progress.update = progress.step + 1, progress.update + 1
                if bad:
                    train_step.skip()
                    progress.bad_steps, progress.skipped = progress.bad_steps + 1, progress.skipped + 1
                    at = f"{where} (step {progress.step}, lr {rate:.3g})"
                    _report_bad_step(run, config, train_set, result, at, progress)
                else:
                    train_step.step()
                    progress.bad_steps, progress.loss_sum = 0, progress.loss_sum + loss
                    if average is not None and recipe.ema:
                        update_average(average, tuned, recipe.ema)
                timing.waited += result.waited
                timing.updates.append(time.perf_counter() - update_started)
                heartbeat.beat(progress.step)

                tenth = progress.update % max(updates // 10, 1) == 0
                left = (epochs - progress.epoch) * updates - progress.update
                run.progress(
                    f"{where}  loss {loss:.4f}  lr {rate:.2e}  {format_time_left(timing.step_seconds, left)}", tenth
                )
                if tenth:
                    run.record("step", progress.step, {"epoch": progress.epoch + 1, "loss": loss, "lr": rate})
                stop = stop_decision(votes, progress.step)
                due = bool(config.save_every) and progress.step % (config.save_every or 1) == 0
                if stop or due or late:
                    save()
                if stop:
                    raise stop

            run.share_bad_files()
            counted = updates - progress.skipped
            if not counted:
                raise FloatingPointError(f"no update of epoch {progress.epoch + 1}/{epochs} was finite: {_WAYS_OUT}")
            entry = {"phase": phase, "epoch": progress.epoch + 1, "train_loss": progress.loss_sum / counted}
            if watched is not None:
                loader_watched = create_eval_loader(watched, compute, config.workers, config.bad_eval, run.bad_files)
                with _use_average(model, average):
                    metrics = evaluate(model, loader_watched, watched.classes, compute)
                    split = "test" if config.protocol == "best_test" else "val"
                    if not math.isfinite(metrics.loss):
                        at = f"after epoch {progress.epoch + 1}/{epochs}"
                        raise FloatingPointError(f"the loss on {split} is {metrics.loss} {at}: {_WAYS_OUT}")
                    entry |= {f"{split}_top1": metrics.top1, f"{split}_loss": metrics.loss}
                    if progress.best is None or _merit(entry) > _merit(progress.best):
                        progress.best = entry
                        best = _copy(vp.tuned_state_dict(model))
            progress.history.append(entry)
            progress.epoch, progress.update, progress.loss_sum, progress.skipped = progress.epoch + 1, 0, 0.0, 0
            run.record("epoch", progress.step, entry)
            run.say(_format_epoch(entry, epochs, best=entry is progress.best))
            passed = time.monotonic() - saved > SHORTEST_BETWEEN_EPOCHS_SECONDS
            due, *votes = all_reduce_sum([not config.save_every and passed, *requests.votes()])
            stop = stop_decision(votes, progress.step)
            if stop or due or progress.epoch == epochs:
                save()
            if stop:
                raise stop
    progress.seconds = seconds_before + time.perf_counter() - started
    return best if watched is not None else _copy(average if average is not None else tuned)


def _report_bad_step(
    run: Run, config: Config, train_set: ImageDataset, result: StepResult, where: str, progress: Progress
) -> None:
    """Say which update was skipped and on what; FloatingPointError, in all processes, after too many in a row."""
    shares = all_gather((result.loss, result.samples))
    culprits = [(loss, samples) for loss, samples in shares if not math.isfinite(loss)]
    what = f"the loss is {culprits[0][0]}" if culprits else "the gradient is not finite"
    samples = [sample for _, ids in culprits or shares for sample in ids]
    named = ", ".join(f"{sample} ({train_set.path(sample)})" for sample in samples[:3])
    text = f"{what} at {where}, on samples {', '.join(map(str, samples))}: {named}{', ...' if len(samples) > 3 else ''}"
    run.record("bad_step", progress.step, {"epoch": progress.epoch + 1, "samples": samples})
    if progress.bad_steps > config.max_bad_steps:
        row = f"; {progress.bad_steps} such updates in a row, max_bad_steps={config.max_bad_steps}"
        raise FloatingPointError(f"{text}{row if config.max_bad_steps else ''}: {_WAYS_OUT}")
    run.say(f"warning: {text}; this update is skipped ({progress.bad_steps} in a row)")


@contextlib.contextmanager
def _use_average(model: nn.Module, average: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The model with the averaged tensors in place of its own, if there is an average."""
    if average is None:
        yield
        return
    own = {name: tensor.clone() for name, tensor in vp.tuned_state_dict(model).items()}
    load_tuned(model, average)
    try:
        yield
    finally:
        load_tuned(model, own)


def _out_of_patience(patience: int | None, progress: Progress) -> bool:
    return bool(patience and progress.best and progress.epoch - progress.best["epoch"] >= patience)


def _merit(entry: Mapping[str, Any]) -> tuple[float, float]:
    """What makes an epoch better than another on the watched split."""
    split = "val" if "val_top1" in entry else "test"
    return entry[f"{split}_top1"], -entry[f"{split}_loss"]


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: full_tensor(tensor).cpu().clone() for name, tensor in tensors.items()}


def _format_epoch(entry: Mapping[str, Any], epochs: int, best: bool) -> str:
    watched = [f"{key.split('_')[0]} top-1 {entry[key]:.2f} %" for key in ("val_top1", "test_top1") if key in entry]
    words = [f"epoch {entry['epoch']}/{epochs}", f"train loss {entry['train_loss']:.4f}", *watched]
    return "  ".join(words) + ("  best so far" if best else "")
