"""A product of two small matrices that is added to some channels of a tensor where it lies."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from vision_peft.tuning.autograd_functions import check_first_derivative, is_read, is_recorded


def add_product(
    y: Tensor | Callable[[], Tensor], hidden: Tensor, weight: Tensor, scaling: float, first: int = 0
) -> Tensor:
    """Add ``scaling * hidden weightᵀ`` to the channels of ``y`` (rows, out) from ``first`` on; return the sum.

    ``y`` itself is written to, so nobody else may read it, nor may what made it keep it. No copy is made of it or of
    its gradient, as slices that are put together again would; what is kept is ``hidden`` (rows, rank). Compiled, traced
    and functional passes put slices together and leave the rest to whoever reads them.

    Where ``y`` is a function, it makes ``y`` when all is kept. A forward pass that is repeated for what the backward
    pass reads (``recompute``) ends before that, so that a frozen layer does not run a second time.
    """
    recorded = is_recorded(hidden, weight)
    kept = _Keep.apply(hidden, weight) if recorded else hidden
    to = y if isinstance(y, Tensor) else y()
    if is_read():
        before, own, behind = to.split([first, len(weight), to.shape[1] - first - len(weight)], 1)
        return torch.cat([before, own + scaling * F.linear(hidden, weight), behind], 1)
    return (_AddProduct.apply if recorded or is_recorded(to) else _add)(to, kept, weight, scaling, first)


def _add(y: Tensor, hidden: Tensor, weight: Tensor, scaling: float, first: int) -> Tensor:
    own = y[:, first : first + len(weight)]
    torch.addmm(own, hidden.to(y.dtype), weight.to(y.dtype).t(), alpha=scaling, out=own)
    return y


class _Keep(Function):
    """The first of two tensors; keeps both for the product that follows."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _AddProduct(Function):
    """y ← y + s h Bᵀ; dh = s g B and dB = s gᵀ h of the channels that it is added to, with what ``_Keep`` kept."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, hidden: Tensor, weight: Tensor, scaling: float, first: int) -> Tensor:
        ctx.mark_dirty(y)
        ctx.factors, ctx.scaling = hidden.grad_fn, scaling
        ctx.first, ctx.last = first, first + len(weight)
        return _add(y, hidden, weight, scaling, first)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        check_first_derivative()
        (grad,) = grads
        if not any(ctx.needs_input_grad[1:3]):
            return grad, None, None, None, None
        hidden, weight = ctx.factors.saved_tensors
        own = grad[:, ctx.first : ctx.last]
        to_hidden = (own @ weight.to(own.dtype)).mul_(ctx.scaling).to(hidden.dtype)
        of_weight = (own.t() @ hidden.to(own.dtype)).mul_(ctx.scaling).to(weight.dtype)
        return grad, to_hidden, of_weight, None, None
