"""The loop, read from top to bottom: updates, epochs, what is watched, what is saved; then one whole update."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.data.loading.samples import Batch
from vision_peft.distributed.device import seed_everything
from vision_peft.distributed.parallel import clip_gradients, full_tensor, gradient_norm, load_tuned
from vision_peft.distributed.processes import Heartbeat, all_reduce_sum
from vision_peft.distributed.stopping import FROM_KEYBOARD, catch_signals, stop_decision
from vision_peft.protocols import Phase
from vision_peft.results.table import format_seconds
from vision_peft.runs.train_state import TrainState, load_scaler
from vision_peft.tasks.task import NotFinite, Task
from vision_peft.training.evaluation import create_eval_loader, evaluate_heads
from vision_peft.training.progress import WAYS_OUT, Diverged, Progress, Saver, State, Training
from vision_peft.training.step import Queued, StepResult, TrainStep, apply_mixup, create_schedule, update_average
from vision_peft.training.unread import UnreadUpdates
from vision_peft.tuning.head_grid import find_grid


def fit(
    training: Training, model: nn.Module, phase: Phase, progress: Progress, state: State | None
) -> dict[str, Tensor]:
    """Train the tuned parts of `model` for what is left of `phase`, from `state` if there is one.

    Returns:
        The tuned tensors to keep, whole and on the CPU: of the best epoch on the watched split, or of the last one.
    """
    config, compute, run = training.config, training.compute, training.run
    recipe, requests = config.recipe, training.requests
    train_set = training.splits[phase.trained]
    loader = TrainLoader(
        train_set,
        recipe.batch_size // recipe.accumulate,
        config.seed,
        config.workers,
        **compute.share,
        device=compute.device,
        max_bad_fraction=config.max_bad_fraction,
        bad_files=run.bad_files,
        repeated_augmentation=recipe.repeated_augmentation,
        balanced=config.data.balanced,
        images_per_class=recipe.images_per_class or training.task.images_per_class,
        report=run.say,
    )
    epochs = progress.count_epochs(config)
    updates = max(loader.batches_per_epoch // recipe.accumulate, 1)
    micro_batches = min(recipe.accumulate, loader.batches_per_epoch)
    step = TrainStep(config, model, training.task.create_loss(recipe, train_set), len(train_set.classes), compute)
    schedule = create_schedule(step.optimizer, recipe, epochs, updates)
    tuned = vp.tuned_state_dict(model)  # views: they follow the training
    average = {name: tensor.clone() for name, tensor in tuned.items()} if recipe.ema else None
    train_state = TrainState(model, tuned, average, step.optimizer)
    if state:
        train_state.load_state_dict(*state)
        load_scaler(step.scaler, state[0]["scaler"], state[1])
    saver = Saver(training, progress, train_state, step.scaler, best=state[0]["best"] if state else {})
    unread, heartbeat = UnreadUpdates(training, phase, progress, epochs, updates), Heartbeat()

    def votes() -> list[float]:
        return [saver.is_late(), *requests.votes()]

    with catch_signals(requests, FROM_KEYBOARD), contextlib.closing(step.parallel):
        while progress.epoch < epochs and not patience_is_over(recipe.early_stopping, progress):
            vp.train_mode(model, recipe.frozen_mode)
            batches = loader.epoch(progress.epoch, start_batch=progress.update * micro_batches)
            while progress.update + len(unread) < updates:
                started, done = time.perf_counter(), progress.update + len(unread)
                schedule.step_update(progress.epoch * updates + done)
                rate = max(group["lr"] for group in step.optimizer.param_groups)
                step.position = progress.epoch * updates + done + 1, epochs * updates
                key = config.seed, phase.name, progress.step + len(unread)
                update = queue_update if step.decides_on_device else run_update
                result = update(step, batches, micro_batches, key, votes)
                if average is not None and recipe.ema:
                    update_average(average, tuned, recipe.ema, result.skipped)
                unread.add(result, rate, started)
                heartbeat.beat(progress.step + len(unread))
                saved = saver.is_due_after(progress.step + len(unread))
                if not (saved or unread.is_due() or done + 1 == updates):
                    continue
                late, *asked = unread.read(votes)
                stop = stop_decision(asked, progress.step)
                if stop or late or saved:
                    saver.save()
                if stop:
                    raise stop

            run.share_bad_files()
            counted = updates - progress.skipped
            if not counted:
                raise Diverged(f"no update of epoch {progress.epoch + 1}/{epochs} was finite: {WAYS_OUT}")
            entry = {"phase": phase.name, "epoch": progress.epoch + 1, "train_loss": progress.loss_sum / counted}
            if phase.watched is not None:
                watch_started = time.perf_counter()
                with _use_average(model, average):
                    entry |= watch(training, model, phase.watched, f"after epoch {progress.epoch + 1}/{epochs}")
                    if is_better(training.task, entry, progress.best):
                        progress.best = entry
                        saver.best = _copy(vp.tuned_state_dict(model))
                items = len(training.splits[phase.watched])
                training.timing.evaluated.append((time.perf_counter() - watch_started) / max(items, 1))
            progress.end_epoch(entry)
            run.record("epoch", progress.step, entry)
            left = unread.seconds_left()
            run.say(format_epoch(training.task, entry, epochs, best=entry is progress.best, seconds_left=left))
            saver.end_epoch(is_last=progress.epoch == epochs or patience_is_over(recipe.early_stopping, progress))
    saver.count_seconds()
    return saver.best if phase.watched is not None else _copy(average if average is not None else tuned)


def run_update(
    step: TrainStep,
    batches: Iterator[Batch],
    micro_batches: int,
    key: Sequence[Any],
    votes: Callable[[], Sequence[float]] = list,
) -> StepResult:
    """Do one update: data, forward, loss, backward, agreement of the processes, step.

    Args:
        batches: this process' share of what comes next; `micro_batches` of them make the batch of the update.
        key: with the number of the micro-batch and the rank it seeds all that is drawn while one is computed.
        votes: what this process says to the others once it has its gradient, as numbers that are summed.
    """
    loss_sum, norm, samples, waited = _compute_gradient(step, batches, micro_batches, key)
    own_loss, finite = torch.stack([loss_sum, (loss_sum.isfinite() & step.grads_finite(norm)).float()]).tolist()

    # Agreement: all processes take this step or none does, and all hear the same votes
    loss, bad, *sums = all_reduce_sum([own_loss / step.compute.world_size, not finite, *votes()])

    # Step
    if bad:
        step.skip()
    else:
        if step.clip:
            clip_gradients(step.trained, step.clip, norm)
        step.scaler.step(step.optimizer)
        step.finish()
    step.scaler.update()
    step.optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, bool(bad), own_loss, samples, waited, sums)


def queue_update(
    step: TrainStep, batches: Iterator[Batch], micro_batches: int, key: Sequence[Any], _: Any = None
) -> Queued:
    """Do one update as `run_update` does, without waiting for the device; for steps that `decides_on_device`.

    The processes agree by the gradient that they share: a loss that is not finite makes it NaN in all of them.
    """
    loss_sum, norm, samples, waited = _compute_gradient(step, batches, micro_batches, key)
    skipped = ~norm.isfinite()
    if step.clip:
        clip_gradients(step.trained, step.clip, norm)
    step.step_unless(skipped)
    step.optimizer.zero_grad(set_to_none=True)
    return Queued(torch.stack([loss_sum, skipped.float()]), skipped, samples, waited)


def _compute_gradient(
    step: TrainStep, batches: Iterator[Batch], micro_batches: int, key: Sequence[Any]
) -> tuple[Tensor, Tensor, list[int], float]:
    """Compute the gradient of a batch: the loss of this process' share, the norm, the samples, seconds of waiting."""
    compute, parallel, device = step.compute, step.parallel, step.compute.device
    step.keep_statistics()
    loss_sum, waited, samples = torch.zeros((), device=device), 0.0, []
    for number in range(micro_batches):
        # Data
        wait_started = time.perf_counter()
        images, labels, indices = next(batches)
        waited += time.perf_counter() - wait_started
        samples += indices.tolist()
        layout = step.layout if images.ndim == 4 else {}
        images, targets = images.to(device, non_blocking=True, **layout), labels.to(device, non_blocking=True)
        seed_everything(*key, number, compute.rank)
        if step.mix:
            images, targets = apply_mixup(step.mix, images, targets)
        with parallel.micro_batch(last=number == micro_batches - 1):
            # Forward
            with compute.autocast():
                logits = parallel.forward(images)
            if len(logits) > len(targets):  # an ensemble of prompts, or several heads, answer with the logits of each
                targets = torch.cat([targets] * (len(logits) // len(targets)))
            # Loss
            loss = step.compute_loss(logits.float(), targets) / micro_batches
            # Backward; in the last micro-batch the gradients of all processes are averaged. Of several heads each has
            # the gradient of its own loss
            step.scaler.scale(loss * step.heads).backward(step.mark_finite(loss))
        loss_sum += loss.detach()
    step.scaler.unscale_(step.optimizer)
    return loss_sum, gradient_norm(step.trained), samples, waited


@contextlib.contextmanager
def _use_average(model: nn.Module, average: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Put the averaged tensors in place of the model's own inside, if there is an average."""
    if average is None:
        yield
        return
    own = {name: tensor.clone() for name, tensor in vp.tuned_state_dict(model).items()}
    load_tuned(model, average)
    try:
        yield
    finally:
        load_tuned(model, own)


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: full_tensor(tensor).cpu().clone() for name, tensor in tensors.items()}


def watch(training: Training, model: nn.Module, split: str, when: str) -> dict[str, float]:
    """Evaluate the split that chooses the epoch; what the history says of it."""
    config, compute, task, watched = training.config, training.compute, training.task, training.splits[split]
    loader = create_eval_loader(watched, compute, config.workers, config.bad_eval, training.run.bad_files)
    grid = find_grid(model)
    settings = [{}] if grid is None else [{"head": place, **each} for place, each in enumerate(grid.settings)]
    found = evaluate_heads(model, loader, task, compute, len(settings))
    known = {place: each for place, each in enumerate(found) if not isinstance(each, NotFinite)}
    sound = [place for place, each in known.items() if not each.non_finite and math.isfinite(each.loss)]
    entries = {
        place: {f"{split}_{task.metric}": each.figures[task.metric], f"{split}_loss": each.loss}
        for place, each in known.items()
    }
    chosen = max(sound, key=lambda place: _rank(task, entries[place]), default=0)
    metrics = found[chosen]
    if isinstance(metrics, NotFinite):
        raise Diverged(f"{split} {when}: {metrics}")
    if metrics.non_finite:
        wrong = f"{metrics.non_finite} of {metrics.images} answers on {split} are NaN or infinite"
        raise Diverged(f"{wrong} {when}: {WAYS_OUT}")
    if not math.isfinite(metrics.loss):
        raise Diverged(f"the loss on {split} is {metrics.loss} {when}: {WAYS_OUT}")
    return {**entries[chosen], **settings[chosen]}


def is_better(task: Task, entry: Mapping[str, Any], best: Mapping[str, Any] | None) -> bool:
    """Whether an epoch is better on the watched split than the best so far, None where there is none."""
    return best is None or _rank(task, entry) > _rank(task, best)


def patience_is_over(patience: int | None, progress: Progress) -> bool:
    """Whether so many epochs were no better than the best that the training ends."""
    return bool(patience and progress.best and progress.epoch - progress.best["epoch"] >= patience)


def _rank(task: Task, entry: Mapping[str, Any]) -> tuple[float, float]:
    """Return what makes an epoch better than another on the watched split."""
    split = "val" if f"val_{task.metric}" in entry else "test"
    figure = entry[f"{split}_{task.metric}"]
    return -math.inf if figure is None else -figure if task.lower_is_better else figure, -entry[f"{split}_loss"]


def format_epoch(
    task: Task, entry: Mapping[str, Any], epochs: int, best: bool, seconds_left: float | None = None
) -> str:
    """Describe an epoch in a line, with what the epochs after it will take."""
    figures = {split: entry.get(f"{split}_{task.metric}") for split in ("val", "test")}
    watched = [f"{split} {task.format_figure(task.metric, it)}" for split, it in figures.items() if it is not None]
    words = [f"epoch {entry['epoch']}/{epochs}", f"train loss {entry['train_loss']:.4f}", *watched]
    words += ["best so far"] * best
    words += [f"{format_seconds(seconds_left)} left"] if seconds_left and entry["epoch"] < epochs else []
    return "  ".join(words)
