"""A product of two small matrices that is added to some channels of a tensor where it lies."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from vision_peft.tuning.autograd_functions import check_first_derivative, is_read, is_recorded


def add_product(y: Tensor, hidden: Tensor, weight: Tensor, scaling: float, first: int = 0) -> Tensor:
    """Add ``scaling * hidden weightᵀ`` to the channels of ``y`` (rows, out) from ``first`` on; return the sum.

    ``y`` itself is written to, so nobody else may read it, nor may what made it keep it. No copy is made of it or of
    its gradient, as slices that are put together again would; what is kept is ``hidden`` (rows, rank). Compiled, traced
    and functional passes put slices together and leave the rest to whoever reads them.
    """
    if is_read():
        before, own, behind = y.split([first, len(weight), y.shape[1] - first - len(weight)], 1)
        return torch.cat([before, own + scaling * F.linear(hidden, weight), behind], 1)
    return (_AddProduct.apply if is_recorded(y, hidden, weight) else _add)(y, hidden, weight, scaling, first)


def _add(y: Tensor, hidden: Tensor, weight: Tensor, scaling: float, first: int) -> Tensor:
    own = y[:, first : first + len(weight)]
    torch.addmm(own, hidden.to(y.dtype), weight.to(y.dtype).t(), alpha=scaling, out=own)
    return y


class _AddProduct(Function):
    """y ← y + s h Bᵀ; dh = s g B and dB = s gᵀ h of the channels that it is added to."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, hidden: Tensor, weight: Tensor, scaling: float, first: int) -> Tensor:
        ctx.mark_dirty(y)
        ctx.save_for_backward(hidden, weight)
        ctx.scaling, ctx.first = scaling, first
        return _add(y, hidden, weight, scaling, first)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        check_first_derivative()
        hidden, weight = ctx.saved_tensors
        (grad,) = grads
        own = grad[:, ctx.first : ctx.first + len(weight)]
        to_hidden = (own @ weight.to(own.dtype)).mul_(ctx.scaling).to(hidden.dtype)
        of_weight = (own.t() @ hidden.to(own.dtype)).mul_(ctx.scaling).to(weight.dtype)
        return grad, to_hidden, of_weight, None, None
