"""What every update of a training uses: the model over all processes, its optimiser, schedule, average and loss.

`run_update` in fit.py is the update itself. Schedule and mixing are thin calls into timm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.data.mixup import Mixup
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.schema import Recipe
from vision_peft.distributed.device import Compute
from vision_peft.distributed.parallel import Parallel
from vision_peft.shards import is_sharded
from vision_peft.tasks.task import Loss
from vision_peft.tuning.decay_groups import group_by_decay
from vision_peft.tuning.finish_step import acts_on_steps
from vision_peft.tuning.head_grid import find_grid, number_of_head

TRUST = 0.001
POWER = 0.9  # of the poly schedule, as in mmsegmentation


@dataclass(frozen=True)
class StepResult:
    """What an update came to."""

    loss: float  # mean over the batch of all processes
    skipped: bool  # a loss or the gradient was not finite in one of the processes
    own_loss: float  # mean over this process' share of the batch
    samples: list[int]  # of that share, indices in the dataset
    waited: float  # seconds, for the loader
    votes: list[float]  # sums over all processes


@dataclass(frozen=True)
class Queued:
    """An update that the device was told to do: what comes of it is not known here yet."""

    figures: Tensor  # 2: this process' loss, and 1 where the update is skipped
    skipped: Tensor  # bool, the same in all processes
    samples: list[int]
    waited: float


class TrainStep:
    """A model, its loss and its optimiser, over all processes."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        loss: Loss,
        classes: int,
        compute: Compute,
    ) -> None:
        recipe = config.recipe
        self.compute, self.clip, self.mix = compute, recipe.clip_grad, None
        if recipe.mixup or recipe.cutmix:
            self.mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)
        self.loss = loss.to(compute.device)
        self.layout: dict[str, Any] = {"memory_format": torch.channels_last} if config.channels_last else {}
        self.model = model
        self.position: tuple[int, int] | None = None  # of the update in its training, from 1, and how many there are
        self.parallel = Parallel(model, compute, config.compile, config.compile_mode)
        grid = find_grid(model)
        self.heads = 1 if grid is None else len(grid.heads)  # that are trained at once
        self.trained = [parameter for _, parameter in vp.tuned_parameters(model)]
        on_gpu = compute.device.type == "cuda"
        self.optimizer = create_optimizer(model, recipe, fused=on_gpu if config.fused is None else config.fused)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        # Whether an update can be skipped without waiting for what the device finds, as torch's fused optimisers can
        at_once = self.scaler.is_enabled() or compute.sharded or acts_on_steps(model)
        self.decides_on_device = not at_once and hasattr(self.optimizer, "_step_supports_amp_scaling")
        self._norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._statistics: list[tuple[Tensor, Tensor]] = []  # of these, as they were before the batch

    def compute_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of what the model answers to a batch; see `Loss`."""
        return self.loss(outputs, targets)

    def keep_statistics(self) -> None:
        """Copy the statistics of batches, which the forward pass changes, for `skip`."""
        buffers = [buffer for norm in self._norms for buffer in norm.buffers()]
        self._statistics = [(buffer, buffer.clone()) for buffer in buffers]

    def skip(self) -> None:
        """Put the statistics of batches back as they were before this one."""
        for buffer, before in self._statistics:
            buffer.copy_(before)

    def mark_finite(self, loss: Tensor) -> Tensor | None:
        """Return what a backward pass from `loss` starts with: 1, or NaN where no host will look at the loss."""
        return torch.where(loss.isfinite(), 1.0, torch.nan).type_as(loss) if self.decides_on_device else None

    def step_unless(self, skipped: Tensor) -> None:
        """Take the step unless the device finds `skipped` true: then all is as it was before the batch."""
        keeps = any(group.get("momentum", True) for group in self.optimizer.param_groups)
        if keeps and any(each.grad is not None and each not in self.optimizer.state for each in self.trained):
            # The first step makes the optimiser's state, which must not come out of a gradient that is not finite
            if bool(skipped):
                self.skip()
            else:
                self.optimizer.step()
            return
        optimizer: Any = self.optimizer
        optimizer.found_inf = skipped.float()
        optimizer.step()
        del optimizer.found_inf
        for buffer, before in self._statistics:
            buffer.copy_(torch.where(skipped, before, buffer))

    def finish(self) -> None:
        """Let the attached methods act on the step that was taken, where it is part of a whole training."""
        if self.position is not None:
            vp.finish_step(self.model, *self.position)

    def grads_finite(self, norm: Tensor) -> Tensor:
        """Whether the gradient is finite; one of fp16 is left to the scaler while its scale can still go down."""
        if self.scaler.is_enabled() and self.scaler.get_scale() >= 1:
            return torch.ones((), dtype=torch.bool, device=self.compute.device)
        return norm.isfinite()


def apply_mixup(mix: Mixup, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix images B C H W or clips B C T H W in pairs (an odd last one is left out); their soft targets are B classes.

    timm's mixing takes the third and fourth axis for height and width: it gets the frames of a clip as channels.
    """
    even = len(images) // 2 * 2
    flat, targets = mix(images[:even].flatten(1, -3), labels[:even])
    return flat.view(even, *images.shape[1:]), targets


class LARS(torch.optim.Optimizer):
    """SGD whose steps are as long as the parameters, layer by layer (You et al., https://arxiv.org/abs/1708.03888).

        g <- g + decay · w        g <- trust · |w| / |g| · g        m <- momentum · m + g        w <- w - lr · m

    As MAE's and efficient probing's code has it (util/lars.py): the ratio stands before momentum, and neither it nor
    the decay touches parameters of one axis. A weight or gradient of norm 0 leaves the gradient as it is.
    """

    _step_supports_amp_scaling = True  # what `found_inf` of torch's fused optimisers does, `step` does too

    def __init__(self, groups: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # the scaler of fp16 calls it without one
        """Update every parameter that has a gradient; none where the attribute `found_inf` is 1."""
        found: Tensor | None = getattr(self, "found_inf", None)
        skipped = False if found is None else found > 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                step = parameter.grad
                if parameter.ndim > 1:
                    step = step.add(parameter, alpha=group["weight_decay"])
                    size, length = parameter.norm(), step.norm()
                    step = step * torch.where((size > 0) & (length > 0), TRUST * size / length, 1.0)
                buffer = self.state[parameter].get("momentum_buffer")
                if buffer is None:
                    buffer = self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                replace_unless(skipped, buffer, buffer.mul(group["momentum"]).add_(step))
                replace_unless(skipped, parameter, parameter.sub(buffer, alpha=group["lr"]))


def check_trains(model: nn.Module) -> None:
    """Raise ValueError where nothing of `model` requires a gradient."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "nothing would be trained: the method has no parameters on this backbone, and there is no head: give "
            "another method, such as method=lora, or for data.task_kind=embedding recipe.embedding_width=128"
        )


def create_optimizer(model: nn.Module, recipe: Recipe, fused: bool = False) -> torch.optim.Optimizer:
    """Optimiser over what requires a gradient; biases and other vectors get no weight decay.

    `recipe.layer_decay` scales the learning rate by timm's own grouping of the backbone's layers. Parameters in shards
    get groups of their own: torch's optimisers cannot step them in one go with whole ones.

    Of a grid of heads every head has its own rate, as a factor on the recipe's, and its own decay.

    Args:
        fused: one kernel for the whole update; the same figures but for rounding.

    Raises:
        ValueError: there is nothing to train.
    """
    check_trains(model)
    if recipe.layer_decay is None:
        groups = group_by_decay(model, recipe.weight_decay)
    else:
        from timm.optim import param_groups_layer_decay

        exempt: Any = getattr(model, "no_weight_decay", set)()
        groups: Any = param_groups_layer_decay(
            model, recipe.weight_decay, exempt, layer_decay=recipe.layer_decay, weight_decay_exclude_1d=True
        )
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        betas = (recipe.betas[0], recipe.betas[1])
        optimizer = torch.optim.AdamW(groups, recipe.lr, betas, weight_decay=0.0, fused=fused or None)
    elif recipe.optimizer == "lars":
        optimizer = LARS(groups, recipe.lr, recipe.momentum)
    else:  # "lbfgs" has no state between two solutions; see solve_head.py
        optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum, weight_decay=0.0, fused=fused or None)
    _split_by_head(optimizer, model, recipe)
    for group in list(optimizer.param_groups):
        sharded = [parameter for parameter in group["params"] if is_sharded(parameter)]
        if sharded and len(sharded) < len(group["params"]):
            group["params"] = [parameter for parameter in group["params"] if not is_sharded(parameter)]
            optimizer.add_param_group({**group, "params": sharded})
    return optimizer


def _split_by_head(optimizer: torch.optim.Optimizer, model: nn.Module, recipe: Recipe) -> None:
    grid = find_grid(model)
    if grid is None:
        return
    number = {id(parameter): number_of_head(name) for name, parameter in model.named_parameters()}
    groups, optimizer.param_groups[:] = list(optimizer.param_groups), []
    for group in groups:
        for place, setting in enumerate(grid.settings):
            own = [parameter for parameter in group["params"] if number[id(parameter)] == place]
            decay = setting["weight_decay"] if group["weight_decay"] else 0.0
            scale = {"lr_scale": setting["lr"] / recipe.lr, "weight_decay": decay}  # on what the schedule gives
            if own:
                optimizer.add_param_group({**group, **scale, "params": own})


def create_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, updates_per_epoch: int) -> Scheduler:
    """Schedule over updates: `schedule.step_update(k)` sets the learning rate of update k, from 0, and keeps no state.

    It rises linearly from `warmup_lr`, or lr / w, over the w updates of the warm-up, then falls to `min_lr` as half a
    cosine or as a power of what is left (poly, which segmentation uses), or stays. By epoch (w counts epochs then) all
    updates have the rate of the first one of their epoch. A training of other `epochs` than the recipe's keeps the
    schedule's proportions: its warm-up takes the same share.
    """
    hold = updates_per_epoch if recipe.schedule == "cosine_by_epoch" else 1
    total = max(epochs * updates_per_epoch, 2)
    warmup_epochs = recipe.warmup_epochs * epochs / recipe.epochs
    warmup = min(round(warmup_epochs * updates_per_epoch), total - 1)
    start = recipe.lr * min(hold / warmup, 1) if warmup else 0.0
    settings: dict[str, Any] = {
        "t_initial": max(total - warmup, 2),  # of one step timm warns; the first of two is the same
        "lr_min": recipe.lr if recipe.schedule == "constant" else recipe.min_lr,
        "warmup_t": warmup,
        "warmup_lr_init": start if recipe.warmup_lr is None else recipe.warmup_lr,
        "warmup_prefix": True,
        "t_in_epochs": False,
    }
    if recipe.schedule == "poly":
        return PolyLRScheduler(optimizer, power=POWER, **settings)
    return _Held(optimizer, hold, **settings)


class _Held(CosineLRScheduler):
    """A schedule whose rate stays for `hold` updates."""

    def __init__(self, optimizer: torch.optim.Optimizer, hold: int, **settings: Any) -> None:
        super().__init__(optimizer, **settings)
        self.hold = hold

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        super().step_update(num_updates // self.hold * self.hold, metric)


def replace_unless(skipped: bool | Tensor, tensor: Tensor, new: Tensor) -> None:
    """Write `new` over `tensor`, unless `skipped`: a tensor of one bool where the device alone knows."""
    if isinstance(skipped, Tensor):
        tensor.copy_(torch.where(skipped, tensor, new))
    elif not skipped:
        tensor.copy_(new)


@torch.no_grad()
def update_average(
    average: Mapping[str, Tensor], tuned: Mapping[str, Tensor], decay: float, skipped: bool | Tensor = False
) -> None:
    """average ← decay · average + (1 - decay) · tuned, unless `skipped`; integers (BatchNorm's counter) are copied.

    timm's ModelEmaV3 would copy the whole frozen backbone.
    """
    for name, tensor in tuned.items():
        mean = average[name].lerp(tensor, 1 - decay) if tensor.is_floating_point() else tensor
        replace_unless(skipped, average[name], mean)
