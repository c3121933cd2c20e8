"""The product with a matrix of which few entries a row are not zero; the forward pass does not make the matrix."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from vision_peft.tuning.autograd_functions import is_read


def sparse_term(x: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    """Compute y[..., o] = Σ_j delta[o, j] x[..., index[o, j]]; indices of a row are distinct."""
    alone = torch.compiler.is_compiling() or not is_read()  # compilers take functions in, traces and transforms do not
    return (SparseTerm.apply if alone else _add_terms)(x, delta, index)


def _add_terms(x: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    terms = [x.index_select(-1, i) * d for i, d in zip(index.unbind(1), delta.unbind(1), strict=True)]
    return sum(terms[1:], terms[0])


class SparseTerm(Function):
    """The sum of ``sparse_term`` with a backward pass in a fixed order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, delta, index)
        return _add_terms(x, delta, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, delta, index = ctx.saved_tensors
        of_x = of_delta = None
        if ctx.needs_input_grad[0]:  # one product of matrices: adding up by index has no fixed order on a GPU
            of_x = grads[0] @ dense(delta, index, x.shape[-1])
        if ctx.needs_input_grad[1]:
            columns = [(grads[0] * x.index_select(-1, i)).flatten(0, -2).sum(0) for i in index.unbind(1)]
            of_delta = torch.stack(columns, 1)
        return of_x, of_delta, None


def dense(delta: Tensor, index: Tensor, fan_in: int) -> Tensor:
    """Write ``delta`` (out k) into a matrix (out fan_in) of zeros."""
    return delta.new_zeros(len(delta), fan_in).scatter(1, index.long(), delta)
