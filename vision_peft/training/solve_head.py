"""Heads that are found in other ways than `fit` alone: by L-BFGS on kept features, by neighbours, among several.

L-BFGS goes along a path of L2 penalties, from strong to weak.

The loss is the mean cross entropy plus half the penalty times the squared weights; biases are free. Epoch k of n has
the penalty `weight_decay * 10 ** ((n - k) / 2)` and starts from the solution of the one before, so that the epoch that
val chooses is the strength that it chooses, and a second training on train and val stops at the same strength.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.schema import Recipe
from vision_peft.data import ImageDataset
from vision_peft.distributed.processes import all_gather_tensors
from vision_peft.distributed.stopping import FROM_KEYBOARD, catch_signals
from vision_peft.methods.knn import KNN, choose_k
from vision_peft.protocols import PHASES, Phase
from vision_peft.runs.train_state import TrainState
from vision_peft.tasks.task import Loss
from vision_peft.training.cached_features import Features, features_are_constant
from vision_peft.training.fit import format_epoch, is_better, patience_is_over, watch
from vision_peft.training.progress import WAYS_OUT, Diverged, Progress, Saver, State, Training
from vision_peft.training.step import check_trains, create_optimizer
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.head_grid import keep_head, spread_heads

Way = Callable[[Training, Any, Phase, Progress, State | None], dict[str, Tensor]]
MOST_STEPS = 1000  # of L-BFGS for one penalty
TOLERANCE = 1e-5  # of the largest entry of the gradient along the scaled axes


def check_solvable(config: Config, model: Any, train_set: ImageDataset, sharded: bool) -> None:
    """Raise ValueError where nothing is trained, cannot be solved for, or is given to k-NN, which trains nothing."""
    if find_knn(config):
        _check_knn(config, sharded)
        return
    check_trains(model)
    if config.recipe.head_grid:
        _check_grid(config, model, sharded)
    if config.recipe.optimizer != "lbfgs":
        return
    reasons = []
    if not features_are_constant(config, model):
        reasons.append("method=linear (or nothing else that trains) and no augmentation, mixup or random erasing")
    if not isinstance(model.get_classifier(), nn.Linear):
        reasons.append("recipe.head=linear, class_mean or vpt_linear")
    if train_set.varies or sharded:
        reasons.append("images rather than videos, and no fsdp2")
    if not config.reuse_features:
        reasons.append("reuse_features=true")
    if config.data.balanced:
        reasons.append("recipe.class_weights=balanced in place of data.balanced=true")
    if reasons:
        raise ValueError(f"recipe.optimizer=lbfgs solves for a head on features: it needs {'; '.join(reasons)}")


def penalty_of_epoch(recipe: Recipe, epoch: int) -> float:
    """Return the penalty of an epoch, counted from 0."""
    return recipe.weight_decay * 10 ** ((recipe.epochs - 1 - epoch) / 2)


def solve_head(
    training: Training, model: Any, phase: Phase, progress: Progress, state: State | None
) -> dict[str, Tensor]:
    """Solve for the head of `model` along what is left of the path of `phase`; as `fit`, whose place it takes.

    Args:
        model: takes features (B D) and answers with logits, see `cached_features`.
    """
    config, compute, run, timing = training.config, training.compute, training.run, training.timing
    recipe, epochs = config.recipe, progress.count_epochs(config)
    train_set = training.splits[phase.trained]
    if not isinstance(train_set, Features):  # an image that cannot be decoded is replaced by others, in every epoch
        raise ValueError(f"recipe.optimizer=lbfgs needs every image of {phase.trained}, and one cannot be decoded")
    head: nn.Linear = model.get_classifier()
    features, labels = train_set.as_tensor().to(compute.device), torch.tensor(train_set.labels, device=compute.device)
    loss_of = training.task.create_loss(recipe, train_set).to(compute.device)
    regression = Regression(features, labels, loss_of)
    tuned = vp.tuned_state_dict(model)
    train_state = TrainState(model, tuned, None, create_optimizer(model, recipe))
    if state:
        train_state.load_state_dict(*state)
    if phase.watched is not None:
        path = [penalty_of_epoch(recipe, epoch) for epoch in range(epochs)]
        progress.tried = {**(progress.tried or {}), "recipe.weight_decay": path}
    best = state[0]["best"] if state else {}
    saver = Saver(training, progress, train_state, torch.amp.GradScaler(compute.device.type, enabled=False), best)
    with catch_signals(training.requests, FROM_KEYBOARD):
        while progress.epoch < epochs and not patience_is_over(recipe.early_stopping, progress):
            started = time.perf_counter()
            penalty = penalty_of_epoch(recipe, progress.epoch)
            loss, steps = regression.solve(head, penalty, recipe.lr)
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} with a penalty of {penalty:g}: {WAYS_OUT}")
            timing.updates.append(time.perf_counter() - started)
            timing.images += steps * len(train_set)
            progress.end_update(loss, skipped=False)
            entry = {"phase": phase.name, "epoch": progress.epoch + 1, "train_loss": loss, "penalty": penalty}
            if phase.watched is not None:
                entry |= watch(training, model, phase.watched, f"with a penalty of {penalty:g}")
                if is_better(training.task, entry, progress.best):
                    progress.best = entry
                    saver.best = {name: tensor.cpu().clone() for name, tensor in tuned.items()}
            progress.end_epoch(entry)
            run.record("epoch", progress.step, entry)
            words = format_epoch(training.task, entry, epochs, best=entry is progress.best)
            run.say(f"{words}  (penalty {penalty:.1e}, {steps} steps)")
            saver.end_epoch(is_last=progress.epoch == epochs or patience_is_over(recipe.early_stopping, progress))
    saver.count_seconds()
    return saver.best if phase.watched is not None else {name: tensor.cpu().clone() for name, tensor in tuned.items()}


def find_knn(config: Config) -> KNN | None:
    """Find the k-NN among the methods of a config."""
    return next((method for method in config.methods if isinstance(method, KNN)), None)


def _check_knn(config: Config, sharded: bool) -> None:
    recipe, reasons = config.recipe, []
    if recipe.head_grid:
        reasons.append("no recipe.head_grid")
    if len(config.methods) > 1:
        reasons.append("no other method, which would have to be trained first")
    if recipe.augment != "none" or recipe.random_erasing or recipe.mixup or recipe.cutmix:
        reasons.append("recipe.augment=none and no random_erasing, mixup or cutmix: it takes images as evaluation does")
    if recipe.optimizer == "lbfgs":
        reasons.append("no recipe.optimizer=lbfgs")
    if sharded:
        reasons.append("distributed.strategy=ddp")
    if reasons:
        raise ValueError(f"method=knn trains nothing: it needs {'; '.join(reasons)}")


def find_way(config: Config, fit: Way) -> Way:
    """Return what finds the tensors to keep: `fit`, or one of the functions of this file that take its place."""
    if config.recipe.head_grid:
        return functools.partial(fit_heads, fit)
    return choose_neighbours if find_knn(config) else solve_head if config.recipe.optimizer == "lbfgs" else fit


def fit_heads(
    fit: Way, training: Training, model: Any, phase: Phase, progress: Progress, state: State | None
) -> dict[str, Tensor]:
    """Train a head for every pair of `recipe.head_grid` on the same features; the one that val chose is kept.

    A second phase, in which no split chooses, trains one head as the chosen one was.
    """
    recipe = training.config.recipe
    settings = list_settings(recipe)
    if phase.watched is None:
        chosen = settings[int(progress.best["head"])] if progress.best else settings[0]
        return fit(_with_recipe(training, head_grid={}, **chosen), model, phase, progress, state)
    tried = {f"recipe.{key}": [*values] for key, values in recipe.head_grid.items()}
    progress.tried = {**(progress.tried or {}), **tried}
    spread_heads(model, settings)
    highest = {key: max(setting[key] for setting in settings) for key in ("lr", "weight_decay")}
    kept = fit(_with_recipe(training, **highest), model, phase, progress, state)
    assert progress.best is not None
    chosen = f"lr {progress.best['lr']:g} and weight decay {progress.best['weight_decay']:g}"
    training.run.say(f"of {len(settings)} heads {phase.watched} chose that of {chosen}")
    return keep_head(model, int(progress.best["head"]), kept)


def list_settings(recipe: Recipe) -> list[dict[str, float]]:
    """List learning rate and weight decay of every head of the recipe's grid."""
    rates, decays = (recipe.head_grid.get(key) or [getattr(recipe, key)] for key in ("lr", "weight_decay"))
    return [{"lr": float(lr), "weight_decay": float(decay)} for lr in rates for decay in decays]


def _with_recipe(training: Training, **values: Any) -> Training:
    recipe = dataclasses.replace(training.config.recipe, **values)
    return dataclasses.replace(training, config=dataclasses.replace(training.config, recipe=recipe))


def _check_grid(config: Config, model: Any, sharded: bool) -> None:
    """Raise ValueError where several heads cannot be trained at once."""
    reasons = [
        f"no recipe.{name}, which acts on all of them"
        for name, none in (("clip_grad", None), ("min_lr", 0.0), ("warmup_lr", None), ("layer_decay", None))
        if getattr(config.recipe, name) != none
    ]
    if config.recipe.optimizer == "lbfgs":
        reasons.append("an optimizer that makes updates")
    if vp.count_parameters(model).trained:
        reasons.append("method=linear, as heads that share a method would not learn alone")
    if not any(phase.watched for phase in PHASES[config.protocol]):
        reasons.append("a protocol that chooses on a split (protocol=val_select)")
    if sharded:
        reasons.append("distributed.strategy=ddp")
    if reasons:
        raise ValueError(f"recipe.head_grid trains several heads at once: it needs {'; '.join(reasons)}")


def choose_neighbours(
    training: Training, model: Any, phase: Phase, progress: Progress, state: State | None
) -> dict[str, Tensor]:
    """Choose the k of k-NN on the split that `phase` watches; as `fit`, whose place it takes.

    Every k is an epoch of the history. It takes seconds and saves no state: a run that was stopped starts over.
    """
    run, knn = training.run, find_knn(training.config)
    assert knn is not None
    images, dim = model.get_submodule(classifier_names(model)[0]).bank.shape
    size = f"{2 * images * dim / 1e6:.1f} MB"
    run.say(f"nothing trains: {images:,} images of {phase.trained} vote by {dim} numbers each, {size} in fp16")
    started = time.perf_counter()
    if phase.watched is not None:
        tried = sorted(set(knn.tried or (knn.k,)))
        progress.tried = {**(progress.tried or {}), "method.k": tried}
        for k in tried:
            choose_k(model, k)
            entry = {"phase": phase.name, "epoch": progress.epoch + 1, "k": k}
            entry |= watch(training, model, phase.watched, f"with k={k}")
            if is_better(training.task, entry, progress.best):
                progress.best = entry
            progress.end_epoch(entry)
            run.record("epoch", progress.step, entry)
            metric = training.task.metric
            run.say(f"k={k}  {phase.watched} {training.task.format_figure(metric, entry[f'{phase.watched}_{metric}'])}")
    choose_k(model, progress.best["k"] if progress.best else knn.k)
    progress.seconds += time.perf_counter() - started
    progress.total_seconds = training.total_seconds
    return {name: tensor.cpu().clone() for name, tensor in vp.tuned_state_dict(model).items()}


class Regression:
    """A linear head on features N D with labels N, in float64 whatever the head has.

    The features are centred and turned to their principal axes, which changes neither what biases can reach nor the
    sum of squared weights; scaled along these axes as the curvature is, L-BFGS takes far fewer steps.
    """

    def __init__(self, features: Tensor, labels: Tensor, loss: Loss) -> None:
        features = features.double()
        self.mean = features.mean(0)
        self.turned = features - self.mean
        self.variances, self.axes = torch.linalg.eigh(self.turned.T @ self.turned / len(features))
        self.turned = self.turned @ self.axes
        self.labels, self.loss = labels, loss

    def solve(self, head: nn.Linear, penalty: float, lr: float = 1.0) -> tuple[float, int]:
        """Minimise from where `head` stands, and put the solution there; its loss, and the steps it took.

        All processes hold all features and find the same; that of rank 0 counts where their machines round differently.
        """
        scale = (self.variances.clamp_min(0) / head.out_features + penalty).rsqrt()
        weight = (head.weight.detach().double() @ self.axes / scale).requires_grad_()
        bias = (head.bias.detach().double() + head.weight.detach().double() @ self.mean).requires_grad_()
        solver = torch.optim.LBFGS(
            [weight, bias],
            lr=lr,
            max_iter=MOST_STEPS,
            max_eval=2 * MOST_STEPS,
            tolerance_grad=TOLERANCE,
            tolerance_change=1e-10,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def plain_loss() -> Tensor:
            return self.loss(F.linear(self.turned, weight * scale, bias), self.labels)

        def closure() -> float:
            solver.zero_grad()
            loss = plain_loss() + penalty / 2 * (weight * scale).square().sum()
            loss.backward()
            return float(loss.detach())

        solver.step(closure)
        with torch.no_grad():
            solution = (weight * scale) @ self.axes.T
            found = {"weight": solution, "bias": bias - solution @ self.mean}
            for name, tensor in found.items():
                parameter = head.get_parameter(name)
                parameter.copy_(all_gather_tensors(tensor.cpu())[0].to(parameter))
            return float(plain_loss()), solver.state_dict()["state"][0]["n_iter"]
