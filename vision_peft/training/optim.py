"""Optimiser, schedule and average of the tuned tensors: thin calls into timm."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vision_peft.config.schema import Recipe

# timm's "sgd" has Nesterov momentum, its "momentum" is torch.optim.SGD as the papers used it.
_TIMM_NAMES = {"adamw": "adamw", "sgd": "momentum"}


def create_optimizer(model: nn.Module, recipe: Recipe, fused: bool = False) -> torch.optim.Optimizer:
    """Optimiser over what requires a gradient; biases and other vectors get no weight decay.

    `recipe.layer_decay` scales the learning rate by timm's own grouping of the backbone's layers. Parameters in shards
    get groups of their own: torch's optimisers cannot step them in one go with whole ones.

    Args:
        fused: one kernel for the whole update; the same figures but for rounding.
    """
    further: dict[str, Any] = {"betas": tuple(recipe.betas)} if recipe.optimizer == "adamw" else {}
    further |= {"fused": True} if fused else {}
    optimizer = create_optimizer_v2(
        model,
        opt=_TIMM_NAMES[recipe.optimizer],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=recipe.layer_decay,
        **further,
    )
    for group in list(optimizer.param_groups):
        sharded = [parameter for parameter in group["params"] if isinstance(parameter, DTensor)]
        if sharded and len(sharded) < len(group["params"]):
            group["params"] = [parameter for parameter in group["params"] if not isinstance(parameter, DTensor)]
            optimizer.add_param_group({**group, "params": sharded})
    return optimizer


def create_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, updates_per_epoch: int
) -> CosineLRScheduler:
    """Schedule over updates: `schedule.step_update(k)` sets the learning rate of update k, from 0, and keeps no state.

    It rises linearly from `warmup_lr`, or lr / w, over the w updates of the warm-up, then falls to `min_lr` as half a
    cosine, or stays. By epoch (w counts epochs then) all updates have the rate of the first one of their epoch. A
    training of other `epochs` than the recipe's keeps the schedule's proportions: its warm-up takes the same share.
    """
    hold = updates_per_epoch if recipe.schedule == "cosine_by_epoch" else 1
    total = max(epochs * updates_per_epoch, 2)  # timm warns of schedules of one step
    warmup_epochs = recipe.warmup_epochs * epochs / recipe.epochs
    warmup = min(round(warmup_epochs * updates_per_epoch), total - 1)
    start = recipe.lr * min(hold / warmup, 1) if warmup else 0.0
    return _Held(
        optimizer,
        hold,
        t_initial=total - warmup,
        lr_min=recipe.lr if recipe.schedule == "constant" else recipe.min_lr,
        warmup_t=warmup,
        warmup_lr_init=start if recipe.warmup_lr is None else recipe.warmup_lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )


class _Held(CosineLRScheduler):
    """A schedule whose rate stays for `hold` updates."""

    def __init__(self, optimizer: torch.optim.Optimizer, hold: int, **settings: Any) -> None:
        super().__init__(optimizer, **settings)
        self.hold = hold

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        super().step_update(num_updates // self.hold * self.hold, metric)


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], tuned: Mapping[str, Tensor], decay: float) -> None:
    """average ← decay · average + (1 - decay) · tuned, in place; integer tensors (BatchNorm's counter) are copied.

    timm's ModelEmaV3 would copy the whole frozen backbone.
    """
    for name, tensor in tuned.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)
