"""The loop, read from top to bottom: updates, epochs, what is watched, what is saved."""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.data import ImageDataset
from vision_peft.data.loader import TrainLoader, eval_loader
from vision_peft.training.checkpoint import save_state
from vision_peft.training.config import Config
from vision_peft.training.device import Compute, seed_everything
from vision_peft.training.evaluate import batch_size, evaluate
from vision_peft.training.optim import create_optimizer, create_schedule, update_average
from vision_peft.training.report import Timing
from vision_peft.training.run import Run, time_left

LONGEST_UNSAVED_SECONDS = 300
_WAYS_OUT = "try a lower recipe.lr, recipe.clip_grad=1 or precision=fp32"


class Interrupted(Exception):
    """Training stopped on request (Ctrl-C, SIGTERM) after its state was saved; `signal` is the number."""

    def __init__(self, number: int, step: int) -> None:
        self.signal = number
        super().__init__(f"stopped after update {step}; its state is saved: the same command again resumes there")


@dataclass
class Progress:
    """How far a run is; with the tensors, all that a state holds."""

    phase: int = 0
    step: int = 0  # updates done, over all phases
    epoch: int = 0  # epochs of this phase that are done
    update: int = 0  # updates done of the epoch that is not
    loss_sum: float = 0.0  # over those updates
    seconds: float = 0.0  # of training and watching
    lines: int = 0  # of metrics.jsonl
    best: dict[str, Any] | None = None  # the history entry of the chosen epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch, over all phases


def fit(
    config: Config,
    model: nn.Module,
    phase: str,
    train_set: ImageDataset,
    watched: ImageDataset | None,
    epochs: int,
    progress: Progress,
    state: dict[str, Any] | None,
    run: Run,
    timing: Timing,
    compute: Compute,
) -> dict[str, Tensor]:
    """Train the tuned parts of `model` for `epochs`, from `state` if there is one.

    Returns:
        The tuned tensors to keep, on the CPU: of the best epoch on `watched`, or of the last one.
    """
    recipe, device = config.recipe, compute.device
    micro_batch = recipe.batch_size // recipe.accumulate
    rank, world_size = compute.rank, compute.world_size
    loader = TrainLoader(
        train_set,
        micro_batch,
        config.seed,
        config.workers,
        rank=rank,
        world_size=world_size,
        max_bad_fraction=config.max_bad_fraction,
        bad_files=run.bad_files,
        repeats=recipe.repeats,
    )
    updates = max(loader.batches_per_epoch // recipe.accumulate, 1)
    parts = min(recipe.accumulate, loader.batches_per_epoch)
    optimizer = create_optimizer(model, recipe)
    schedule = create_schedule(optimizer, recipe, epochs, updates)
    scaler = torch.amp.GradScaler(device.type, enabled=compute.precision == "fp16")
    smoothing, mix = recipe.label_smoothing, None
    if recipe.mixup or recipe.cutmix:
        mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=smoothing, num_classes=len(train_set.classes))
        smoothing = 0.0  # mixed targets are smooth already
    forward = torch.compile(model) if config.compile else model
    trained = [parameter for _, parameter in vp.tuned_parameters(model)]
    tuned = vp.tuned_state_dict(model)  # views: they follow the training
    average = {name: tensor.clone() for name, tensor in tuned.items()} if recipe.ema else None
    best: dict[str, Tensor] = {}
    if state:
        vp.load_tuned(model, state["tuned"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        average = {name: tensor.to(device) for name, tensor in state["average"].items()} if recipe.ema else None
        best = state["best"]
    seconds_before, started, saved = progress.seconds, time.perf_counter(), time.monotonic()

    def save() -> None:
        nonlocal saved
        if not all(tensor.isfinite().all() for tensor in tuned.values()):
            raise FloatingPointError(f"tuned tensors are no longer finite after update {progress.step}: {_WAYS_OUT}")
        progress.seconds, progress.lines = seconds_before + time.perf_counter() - started, run.lines
        state = {"progress": dataclasses.asdict(progress), "tuned": tuned, "optimizer": optimizer.state_dict()}
        state |= {"scaler": scaler.state_dict(), "average": average, "best": best}
        save_state(run.folder / "state", progress.step, state)
        saved = time.monotonic()

    with _stop_requests() as stop:
        while progress.epoch < epochs and not _out_of_patience(recipe.early_stopping, progress):
            vp.train_mode(model, recipe.frozen)
            batches = loader.epoch(progress.epoch, start_batch=progress.update * parts)
            while progress.update < updates:
                update_started = time.perf_counter()
                schedule.step_update(progress.epoch * updates + progress.update)
                rate = max(group["lr"] for group in optimizer.param_groups)
                loss_sum = torch.zeros((), device=device)
                for part in range(parts):
                    wait_started = time.perf_counter()
                    images, labels, _ = next(batches)
                    timing.waited += time.perf_counter() - wait_started
                    images, targets = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
                    seed_everything(config.seed, phase, progress.step, part, rank)
                    if mix:
                        images, targets = mixed(mix, images, targets)
                    with compute.autocast():
                        logits = forward(images)
                    if len(logits) > len(targets):  # an ensemble of prompts answers with the logits of each
                        targets = torch.cat([targets] * (len(logits) // len(targets)))
                    loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing) / parts
                    scaler.scale(loss).backward()
                    loss_sum += loss.detach()
                loss = loss_sum.item()
                where = f"epoch {progress.epoch + 1}/{epochs}  update {progress.update + 1}/{updates}"
                if not math.isfinite(loss):
                    problem = f"the loss is {loss} at {where} (step {progress.step + 1}, lr {rate:.3g})"
                    raise FloatingPointError(f"{problem}: {_WAYS_OUT}")
                if recipe.clip_grad:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(trained, recipe.clip_grad)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                if average is not None and recipe.ema:
                    update_average(average, tuned, recipe.ema)
                progress.step, progress.update = progress.step + 1, progress.update + 1
                progress.loss_sum += loss
                timing.updates.append(time.perf_counter() - update_started)

                tenth = progress.update % max(updates // 10, 1) == 0
                left = (epochs - progress.epoch) * updates - progress.update
                run.progress(f"{where}  loss {loss:.4f}  lr {rate:.2e}  {time_left(timing.step_seconds, left)}", tenth)
                if tenth:
                    run.record("step", progress.step, {"epoch": progress.epoch + 1, "loss": loss, "lr": rate})
                unsaved = time.monotonic() - saved
                due = progress.step % config.save_every == 0 if config.save_every else unsaved > LONGEST_UNSAVED_SECONDS
                if due or stop:
                    save()
                if stop:
                    raise Interrupted(stop[0], progress.step)

            entry = {"phase": phase, "epoch": progress.epoch + 1, "train_loss": progress.loss_sum / updates}
            if watched is not None:
                with _averaged(model, average):
                    bad: dict[str, Any] = {"bad": config.bad_eval, "bad_files": run.bad_files}
                    images_watched = eval_loader(watched, batch_size(watched), config.workers, **bad)
                    metrics = evaluate(model, images_watched, watched.classes, compute)
                    split = "test" if config.protocol == "best_test" else "val"
                    entry |= {f"{split}_top1": metrics.top1, f"{split}_loss": metrics.loss}
                    if progress.best is None or _merit(entry) > _merit(progress.best):
                        progress.best = entry
                        best = _copied(vp.tuned_state_dict(model))
            progress.history.append(entry)
            progress.epoch, progress.update, progress.loss_sum = progress.epoch + 1, 0, 0.0
            run.record("epoch", progress.step, entry)
            run.say(_epoch_words(entry, epochs, best=entry is progress.best))
            if not config.save_every or progress.epoch == epochs or stop:
                save()
            if stop:
                raise Interrupted(stop[0], progress.step)
    progress.seconds = seconds_before + time.perf_counter() - started
    return best if watched is not None else _copied(average if average is not None else tuned)


def mixed(mix: Mixup, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images B C H W or clips B C T H W mixed in pairs (an odd last one is left out), and their soft targets B classes.

    timm's mixing takes the third and fourth axis for height and width: it gets the frames of a clip as channels.
    """
    even = len(images) // 2 * 2
    flat, targets = mix(images[:even].flatten(1, -3), labels[:even])
    return flat.view(even, *images.shape[1:]), targets


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that Ctrl-C or SIGTERM puts its number into, read after every update; the second time stops at once."""
    requests: list[int] = []

    def note(number: int, _: Any) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield requests
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _averaged(model: nn.Module, average: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The model with the averaged tensors in place of its own, if there is an average."""
    if average is None:
        yield
        return
    own = {name: tensor.clone() for name, tensor in vp.tuned_state_dict(model).items()}
    vp.load_tuned(model, average)
    try:
        yield
    finally:
        vp.load_tuned(model, own)


def _out_of_patience(patience: int | None, progress: Progress) -> bool:
    return bool(patience and progress.best and progress.epoch - progress.best["epoch"] >= patience)


def _merit(entry: Mapping[str, Any]) -> tuple[float, float]:
    """What makes an epoch better than another on the watched split."""
    split = "val" if "val_top1" in entry else "test"
    return entry[f"{split}_top1"], -entry[f"{split}_loss"]


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in tensors.items()}


def _epoch_words(entry: Mapping[str, Any], epochs: int, best: bool) -> str:
    watched = [f"{key.split('_')[0]} top-1 {entry[key]:.2f} %" for key in ("val_top1", "test_top1") if key in entry]
    words = [f"epoch {entry['epoch']}/{epochs}", f"train loss {entry['train_loss']:.4f}", *watched]
    return "  ".join(words) + ("  best so far" if best else "")
