"""What every update of a training uses: the model over all processes, its optimiser, its loss.

`run_update` in fit.py is the update itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.distributed.device import Compute
from vision_peft.distributed.parallel import Parallel
from vision_peft.training.optim import create_optimizer


@dataclass(frozen=True)
class StepResult:
    """What an update came to."""

    loss: float  # mean over the batch of all processes
    skipped: bool  # a loss or the gradient was not finite in one of the processes
    own_loss: float  # mean over this process' share of the batch
    samples: list[int]  # of that share, indices in the dataset
    waited: float  # seconds, for the loader
    votes: list[float]  # sums over all processes


class TrainStep:
    """A model and its optimiser, over all processes."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        classes: int,
        compute: Compute,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        recipe = config.recipe
        self.compute, self.clip = compute, recipe.clip_grad
        self.smoothing, self.mix = recipe.label_smoothing, None
        if recipe.mixup or recipe.cutmix:
            self.mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=self.smoothing, num_classes=classes)
            self.smoothing = 0.0  # mixed targets are smooth already
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, device=compute.device)
        self.layout: dict[str, Any] = {"memory_format": torch.channels_last} if config.channels_last else {}
        self.parallel = Parallel(model, compute, config.compile)
        self.trained = [parameter for _, parameter in vp.tuned_parameters(model)]
        on_gpu = compute.device.type == "cuda"
        self.optimizer = create_optimizer(model, recipe, fused=on_gpu if config.fused is None else config.fused)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        self._norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._statistics: list[tuple[Tensor, Tensor]] = []  # of these, as they were before the batch

    def compute_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean cross entropy of logits B C and labels B, or soft targets B C.

        With class weights w it is the sum of `w[label] * entropy` over the images, divided by their number and not by
        the sum of their weights: so parts of a batch and processes add up to the whole, whatever classes they got.
        """
        if self.class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        weighted = F.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=self.smoothing, reduction="sum"
        )
        return weighted / len(logits)

    def keep_statistics(self) -> None:
        """Copy the statistics of batches, which the forward pass changes, for `skip`."""
        buffers = [buffer for norm in self._norms for buffer in norm.buffers()]
        self._statistics = [(buffer, buffer.clone()) for buffer in buffers]

    def skip(self) -> None:
        """Put the statistics of batches back as they were before this one."""
        for buffer, before in self._statistics:
            buffer.copy_(before)

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
