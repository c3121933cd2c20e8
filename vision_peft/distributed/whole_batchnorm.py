"""BatchNorm whose statistics are of the batch of all processes; torch's SyncBatchNorm is for GPUs only.

    y = (x - mean) / sqrt(variance + eps) * weight + bias,   mean and variance over all processes, places and images

Every process has as many images, so that all have the same running statistics, and training does not depend on how
many processes there are.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vision_peft.distributed.processes import is_distributed
from vision_peft.tuning.graft import Graft


class WholeBatchNorm(Graft):
    """BatchNorm1d (B D) or BatchNorm2d (B D h w) over the batch of all processes, whatever their number."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Any
    momentum: float
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and is_distributed()):
            return super().forward(x)
        y, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """The formula above, with the gradient that goes through mean and variance; only `x` is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
        mean = _average(x.float())
        variance = _average((x.float() - _shape(mean, x)).square())
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        y = (x.float() - _shape(mean, x)) * _shape((variance + eps).rsqrt(), x)
        if weight is not None and bias is not None:
            y = y * _shape(weight.float(), x) + _shape(bias.float(), x)
        ctx.mark_non_differentiable(mean, variance)
        return y.type_as(x), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, variance = ctx.saved_tensors
        scale, given = (variance + ctx.eps).rsqrt(), gradients[0].float()
        normed = (x.float() - _shape(mean, x)) * _shape(scale, x)
        places = [place for place in range(x.ndim) if place != 1]
        of_weight = of_bias = None
        if weight is not None:
            of_weight, of_bias = (given * normed).sum(places).type_as(weight), given.sum(places).type_as(weight)
            given = given * _shape(weight.float(), x)
        along = _shape(_average(given * normed), x)
        of_x = (given - _shape(_average(given), x) - normed * along) * _shape(scale, x)
        return of_x.type_as(x), of_weight, of_bias, None


def _average(x: Tensor) -> Tensor:
    """Average channels (D) over images and places of all processes."""
    summed = x.sum([place for place in range(x.ndim) if place != 1])
    count = x.numel() // x.shape[1]
    if is_distributed():
        dist.all_reduce(summed)
        count *= dist.get_world_size()
    return summed / count


def _shape(channels: Tensor, like: Tensor) -> Tensor:
    return channels.view(-1, *[1] * (like.ndim - 2))
