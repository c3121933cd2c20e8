"""One update of the tuned micro_batches: forward, backward, the gradient looked at, then the step or none."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.data.loading.samples import Batch
from vision_peft.distributed.device import Compute, seed_everything
from vision_peft.distributed.parallel import Parallel, clip_gradients, gradient_norm
from vision_peft.training.optim import create_optimizer


@dataclass
class StepResult:
    """What forward and backward of one batch came to in this process."""

    loss: float  # mean over this process' share of the batch
    finite: bool  # loss and gradient
    waited: float  # seconds, for the loader
    samples: list[int]  # indices in the dataset


@dataclass
class Timing:
    """Wall-clock seconds of the updates that this process did."""

    updates: list[float] = field(default_factory=list)
    waited: float = 0.0  # of them, for the loader

    @property
    def step_seconds(self) -> float:
        """Median of an update; 0 before the first."""
        return statistics.median(self.updates[-200:]) if self.updates else 0.0


class TrainStep:
    """A model and its optimiser, over all processes.

    `backward` computes the gradient of a batch, then `step` follows it or `skip` forgets it: between the two the
    processes can agree.
    """

    def __init__(self, config: Config, model: nn.Module, classes: int, compute: Compute) -> None:
        recipe = config.recipe
        self.compute, self.clip = compute, recipe.clip_grad
        self.smoothing, self.mix = recipe.label_smoothing, None
        if recipe.mixup or recipe.cutmix:
            self.mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=self.smoothing, num_classes=classes)
            self.smoothing = 0.0  # mixed targets are smooth already
        self.layout: dict[str, Any] = {"memory_format": torch.channels_last} if config.channels_last else {}
        self.parallel = Parallel(model, compute, config.compile)
        self._norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._statistics: list[tuple[Tensor, Tensor]] = []  # of these, as they were before the batch
        self.trained = [parameter for _, parameter in vp.tuned_parameters(model)]
        on_gpu = compute.device.type == "cuda"
        self.optimizer = create_optimizer(model, recipe, fused=on_gpu if config.fused is None else config.fused)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")

    def backward(self, batches: Iterator[Batch], micro_batches: int, *key: Any) -> StepResult:
        """Accumulate the gradient of the next `micro_batches` batches; `key` and its number seed each of them."""
        buffers = [buffer for norm in self._norms for buffer in norm.buffers()]
        self._statistics = [(buffer, buffer.clone()) for buffer in buffers]
        device, loss_sum = self.compute.device, torch.zeros((), device=self.compute.device)
        waited, samples = 0.0, []
        for part in range(micro_batches):
            wait_started = time.perf_counter()
            images, labels, indices = next(batches)
            waited += time.perf_counter() - wait_started
            samples += indices.tolist()
            layout = self.layout if images.ndim == 4 else {}
            images, targets = images.to(device, non_blocking=True, **layout), labels.to(device, non_blocking=True)
            seed_everything(*key, part, self.compute.rank)
            if self.mix:
                images, targets = apply_mixup(self.mix, images, targets)
            with self.parallel.part(last=part == micro_batches - 1):
                with self.compute.autocast():
                    logits = self.parallel.forward(images)
                if len(logits) > len(targets):  # an ensemble of prompts answers with the logits of each
                    targets = torch.cat([targets] * (len(logits) // len(targets)))
                loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.smoothing) / micro_batches
                self.scaler.scale(loss).backward()
            loss_sum += loss.detach()
        self.scaler.unscale_(self.optimizer)
        self.norm = gradient_norm(self.trained)
        loss, finite = torch.stack([loss_sum, (loss_sum.isfinite() & self._grads_finite()).float()]).tolist()
        return StepResult(loss, bool(finite), waited, samples)

    def step(self) -> None:
        """Follow the gradient."""
        if self.clip:
            clip_gradients(self.trained, self.clip, self.norm)
        self.scaler.step(self.optimizer)
        self._forget()

    def skip(self) -> None:
        """Forget the batch: its gradient and what it did to the statistics of batches."""
        for buffer, before in self._statistics:
            buffer.copy_(before)
        self._forget()

    def _forget(self) -> None:
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _grads_finite(self) -> Tensor:
        """Whether the gradient is finite; those of fp16 are the scaler's affair while its scale can still go down."""
        if self.scaler.is_enabled() and self.scaler.get_scale() >= 1:
            return torch.ones((), dtype=torch.bool, device=self.compute.device)
        return self.norm.isfinite()


def apply_mixup(mix: Mixup, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images B C H W or clips B C T H W mixed in pairs (an odd last one is left out), and their soft targets B classes.

    timm's mixing takes the third and fourth axis for height and width: it gets the frames of a clip as channels.
    """
    even = len(images) // 2 * 2
    flat, targets = mix(images[:even].flatten(1, -3), labels[:even])
    return flat.view(even, *images.shape[1:]), targets
