"""What methods are compared with: training by a plain loop over a timm model, and the least a frozen backbone costs."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from vision_peft.distributed.device import Compute
from vision_peft.tuning.backbone import classifier_names, has_blocks
from vision_peft.tuning.blocks import blocks


class PlainLoop:
    """Updates of what requires a gradient in `model`, as the loop of timm's train.py makes them.

    Training mode, forward and loss under autocast, backward, AdamW by timm's factory. Nothing is checked, clipped or
    logged.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, compute: Compute, compiled: bool | str = False
    ) -> None:
        self.model, self.images, self.labels, self.compute = model, images, labels, compute
        self._uncompiled = blocks(model) if compiled == "blocks" and has_blocks(model) else []
        self.forward: Any = torch.compile(model) if compiled and not self._uncompiled else model
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")

    def compute_loss(self, forward: Any = None) -> Tensor:
        """Compute the loss of the batch, by the model itself or by `forward`, which is the model compiled."""
        with self.compute.autocast():
            return F.cross_entropy((forward or self.model)(self.images), self.labels)

    def update(self) -> None:
        """Do one update, the first of which compiles what is to be compiled."""
        while self._uncompiled:
            self._uncompiled.pop().compile()
        self.scaler.scale(self.compute_loss(self.forward)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def train_all(model: Any) -> Any:
    """Let all of a timm model train."""
    return model.requires_grad_(True)


def freeze_but_head(model: Any) -> Any:
    """Let nothing but the head of a timm model train."""
    model.requires_grad_(False)
    for name in classifier_names(model):
        model.get_submodule(name).requires_grad_(True)
    return model


def make_floor(model: Any) -> Any:
    """Turn a timm model into the floor: a frozen backbone through which the gradient comes to its tokens.

    The tokens that enter the first block require a gradient, nothing but the head trains, and every block computes all
    its tokens. A method that tunes the first block needs this gradient, in all but its last blocks, beside its own.
    """
    freeze_but_head(model)
    blocks(model)[0].register_forward_pre_hook(_start_gradient)
    return model


def _start_gradient(block: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    tokens, *others = args
    return (tokens.detach().requires_grad_(torch.is_grad_enabled()), *others)
