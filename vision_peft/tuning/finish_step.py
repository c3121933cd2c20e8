"""What attached methods do between two steps of the optimiser."""

import torch
from torch import nn

from vision_peft.tuning import record
from vision_peft.tuning.method import Method


@torch.no_grad()
def finish_step(model: nn.Module, step: int, total_steps: int) -> None:
    """Let the methods on ``model`` act on a step of the optimiser; AdaLoRA shares out its ranks by the gradients here.

        loss.backward()
        optimizer.step()
        vp.finish_step(model, step, total_steps)  # every process of a distributed training
        optimizer.zero_grad()

    The trainer of this package calls it. A loop of one's own needs the call for AdaLoRA only.

    Args:
        model: a model with methods attached, not its wrapper (DDP: ``model.module``).
        step: how many steps were taken, this one included.
        total_steps: how many there will be.

    Raises:
        ValueError: ``step`` is not between 1 and ``total_steps``, or ``model`` is wrapped.
    """
    if not 1 <= step <= total_steps:
        raise ValueError(f"step must be between 1 and total_steps={total_steps}; got {step}")
    tuning = record.find(model)
    for method in tuning.methods if tuning else ():
        method.finish_step(model, step, total_steps)


def acts_on_steps(model: nn.Module) -> bool:
    """Tell whether a method on ``model`` acts on the steps of the optimiser, so that ``finish_step`` does something."""
    tuning = record.find(model)
    return any(type(each).finish_step is not Method.finish_step for each in (tuning.methods if tuning else ()))
