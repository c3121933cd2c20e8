"""Autograd functions that keep less for the backward pass than the operations of torch that they stand for.

Autograd keeps what a formula of a gradient names: a scale keeps the unscaled activation, a small matrix its whole
input. The functions here name something else that is in memory anyway: the layer's output, the input of the norm in
front of it, a hidden activation of few channels.

They act where autograd records a forward pass as it runs. Compiled, traced and functional (``torch.func``) passes take
the plain operations, whose graph the compiler reads and shortens itself. A backward pass that is to be differentiated
again is refused.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


def is_recorded(*tensors: Tensor | None) -> bool:
    """Tell whether autograd records operations on one of ``tensors`` while they run, and nothing else reads them."""
    recorded = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return recorded and not is_read()


def is_read() -> bool:
    """Tell whether operations are compiled, traced or transformed, and not only run."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def check_first_derivative() -> None:
    """Raise RuntimeError in a backward pass with ``create_graph=True``, whose graph would lack parts."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "attached methods have first derivatives alone, and create_graph=True asks for more: take torch.func.grad, "
            "which computes them by torch's own operations"
        )


def _draw_mask(x: Tensor, dropout: nn.Dropout | None) -> tuple[Tensor | None, float]:
    """Draw which numbers of ``x`` a dropout keeps, one byte each, and return its rate too; None: all."""
    p = dropout.p if dropout is not None and dropout.training else 0.0
    return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p) if p > 0 else None, p


def _drop(x: Tensor, mask: Tensor | None, p: float) -> Tensor:
    return x if mask is None else x * mask * (1 / (1 - p) if p < 1 else 0.0)


# Scale and shift


def scale_and_shift(y: Tensor, scale: Tensor, shift: Tensor, *, overwritten: bool = False) -> Tensor:
    """Compute ``scale * y + shift`` (..., C) in the type of ``y``; what is kept is the result.

    Where the result is kept by what reads it (an activation, attention), nothing is kept beside it. The gradient of the
    scale divides by the scale: exact while no scale is 0, where y is lost. ``overwritten`` says that what reads the
    result may change it in place: then y is kept.
    """
    if is_recorded(scale) and not overwritten:
        return _ScaleAndShift.apply(y, scale, shift)
    return _scale_and_shift(y, scale, shift)


def _scale_and_shift(y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, y, scale).to(y.dtype)


class _ScaleAndShift(Function):
    """dγ = Σ g y = (Σ g out - β Σ g) / γ by channel, as y = (out - β) / γ."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        out = _scale_and_shift(y, scale, shift)
        ctx.save_for_backward(out, scale, shift)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        check_first_derivative()
        out, scale, shift = ctx.saved_tensors
        (grad,) = grads
        to_y = (grad * scale).to(grad.dtype) if ctx.needs_input_grad[0] else None
        of_shift = grad.flatten(0, -2).sum(0, dtype=shift.dtype)
        of_out = (grad * out).flatten(0, -2).sum(0, dtype=scale.dtype)
        return to_y, (of_out - shift * of_shift) / scale, of_shift


# A small matrix on an activation that can be computed anew


def narrow_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, dropout: nn.Dropout | None = None) -> Tensor:
    """Compute ``F.linear(dropout(x), weight, bias)`` by a small matrix that trains; x is kept only where it must be.

    x is (..., in), or (..., tiles · in), whose tiles pass the matrix one by one: (..., tiles, out). Where x is what a
    layer norm or a GELU gave, its gradient is computed from their input, which they keep for themselves.
    """
    kept = _kept_in_place_of(x, weight.shape[1]) if is_recorded(weight) else None
    if kept is not None:
        mask, p = _draw_mask(x, dropout)
        return _NarrowLinear.apply(x, weight, bias, mask, p, *kept)
    return _narrow_linear(x if dropout is None else dropout(x), weight, bias)


def _narrow_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    tiles = x.shape[-1] != weight.shape[1]
    return F.linear(x.unflatten(-1, (-1, weight.shape[1])) if tiles else x, weight, bias)


def _kept_in_place_of(x: Tensor, channels: int) -> tuple[Any, ...] | None:
    """Return what makes ``x`` and is kept for the backward pass of the operation that made it; None where unknown.

    A norm is of as many ``channels`` as the matrix reads.
    """
    hooks = cast(Any, torch._C)._autograd._top_saved_tensors_default_hooks(True)
    if hooks is not None and hooks[0].__module__.startswith("torch."):
        return None  # checkpointing and offloading: what is kept is elsewhere, and to ask for it would bring it back
    if x.grad_fn is None:
        return None
    made_by = cast(Any, x.grad_fn)
    name = made_by.name()
    if name == "NativeLayerNormBackward0" and list(made_by._saved_normalized_shape) == [channels]:
        tensors = made_by._saved_input, made_by._saved_result1, made_by._saved_result2
        return tuple(t if t is None else t.detach() for t in (*tensors, made_by._saved_weight, made_by._saved_bias))
    if name == "GeluBackward0":
        return made_by._saved_self.detach(), made_by._saved_approximate
    return None


class _NarrowLinear(Function):
    """dA = gᵀ x, with x = (h - μ) ρ ⊙ w + b of a layer norm of h, or x = GELU(h)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Any, p: float, *kept: Any) -> Tensor:
        ctx.p, ctx.approximate = p, kept[1] if len(kept) == 2 else None
        ctx.save_for_backward(weight, mask, *(kept if ctx.approximate is None else kept[:1]))
        return _narrow_linear(_drop(x, mask, p), weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        check_first_derivative()
        weight, mask, kept, *norm = ctx.saved_tensors
        (grad,) = grads
        to_x = grad @ weight.to(grad.dtype)
        if to_x.shape != kept.shape:
            to_x = to_x.flatten(-2)
        rows = grad.flatten(0, -2)
        if norm and mask is None:
            of_weight = _times_norm(rows, kept, *norm)
        else:
            x = _norm(kept, *norm) if norm else F.gelu(kept, approximate=ctx.approximate)
            of_weight = rows.t() @ _drop(x, mask, ctx.p).to(rows.dtype).reshape(-1, weight.shape[1])
        of_bias = rows.sum(0, dtype=weight.dtype) if ctx.needs_input_grad[2] else None
        return _drop(to_x, mask, ctx.p), of_weight.to(weight.dtype), of_bias, *[None] * (3 + max(1, len(norm)))


def _norm(h: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = (h - mean) * rstd
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _times_norm(
    rows: Tensor, h: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Compute gᵀ x (out, in) for g (n, out) and the norm x of h (n, in), without making x."""
    rows = rows.to(mean.dtype)
    scaled = rows * rstd.view(-1, 1)
    product = scaled.t() @ h.reshape(len(rows), -1).to(rows.dtype)
    product -= (scaled * mean.view(-1, 1)).sum(0).unsqueeze(1)
    product = product if weight is None else product * weight
    return product if bias is None else product + rows.sum(0).unsqueeze(1) * bias


# The second half of a bottleneck


def widen(
    hidden: Tensor,
    activate: Callable[[Tensor], Tensor],
    dropout: nn.Dropout | None,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Compute ``scale * F.linear(dropout(activate(hidden)), weight, bias)``; what is kept is ``hidden``.

    The activation runs once more in the backward pass, and the product too where a ``scale`` trains. What dropout keeps
    is noted as one byte a number. ``scale`` is one number or one a channel; None: 1.
    """
    if not is_recorded(hidden, weight, bias, scale):
        active = activate(hidden)
        y = F.linear(active if dropout is None else dropout(active), weight, bias)
        return y if scale is None else scale * y
    mask, p = _draw_mask(hidden, dropout)

    def run(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, mask: Tensor | None) -> Tensor:
        y = F.linear(_drop(activate(hidden), mask, p), weight, bias)
        return y if scale is None else scale * y

    return _RunTwice.apply(run, hidden, weight, bias, scale, mask)


class _RunTwice(Function):
    """A function of tensors that is run again to be differentiated; it keeps its arguments."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        device: Any = next(tensor.device.type for tensor in tensors if tensor is not None)
        ctx.function, ctx.autocast = function, None
        if torch.amp.is_autocast_available(device):  # on the meta device it is not
            ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        check_first_derivative()
        (grad,) = grads
        tensors, needed = list(ctx.saved_tensors), ctx.needs_input_grad[1:]
        wanted = [i for i, needs in enumerate(needed) if needs]
        with torch.enable_grad(), torch.autocast(*ctx.autocast) if ctx.autocast else nullcontext():
            for i in wanted:
                tensors[i] = tensors[i].detach().requires_grad_()
            out = ctx.function(*tensors)
        found = torch.autograd.grad(out, [tensors[i] for i in wanted], grad)
        given = dict(zip(wanted, found, strict=True))
        return None, *(given.get(i) for i in range(len(tensors)))


# A bottleneck between the output of a half of a block and the residual stream


def add_adapted(
    x: Tensor,
    y: Tensor,
    down: Tensor,
    down_bias: Tensor,
    activate: Callable[[Tensor], Tensor],
    up: Tensor,
    up_bias: Tensor,
) -> Tensor:
    """Compute x + (y + A y) with A y = up · activate(down · y); what is kept is x, the sum and the hidden activation.

    Norms keep x and the sum anyway, and y is their difference: as exact as the sum is, which should be of float32.
    """
    return _AddAdapted.apply(activate, x, y, down, down_bias, up, up_bias)


class _AddAdapted(Function):
    """dW_down = g_hᵀ y = g_hᵀ (sum - x) - (g_hᵀ a) W_upᵀ - (Σ g_h) b_upᵀ, with a the activated hidden numbers."""

    @staticmethod
    def forward(ctx: Any, activate: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
        down, down_bias, up, up_bias = weights
        hidden = F.linear(y, down, down_bias)
        added = F.linear(activate(hidden), up, up_bias)
        out = x + (y + added)
        ctx.activate, ctx.types = activate, (y.dtype, added.dtype)
        ctx.save_for_backward(x, out, hidden, down, up, up_bias)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        check_first_derivative()
        x, out, hidden, down, up, up_bias = ctx.saved_tensors
        to_y, of_added = (grads[0].flatten(0, -2).to(dtype) for dtype in ctx.types)
        with torch.enable_grad():
            inner = hidden.flatten(0, -2).detach().requires_grad_()
            active = ctx.activate(inner)
        (rows,) = torch.autograd.grad(active, inner, (of_added @ up.to(of_added.dtype)).to(active.dtype))
        active, of_up_bias, of_down_bias = active.detach(), of_added.sum(0, dtype=up.dtype), rows.sum(0, dtype=up.dtype)
        of_down = (rows.t() @ (out - x).flatten(0, -2).to(rows.dtype)).to(up.dtype)
        of_down -= (rows.t() @ active).to(up.dtype) @ up.t() + of_down_bias.unsqueeze(1) * up_bias
        if ctx.needs_input_grad[2]:
            to_y = torch.addmm(to_y, rows.to(to_y.dtype), down.to(to_y.dtype)).view_as(out)
        else:
            to_y = None
        of_up = (of_added.t() @ active.to(of_added.dtype)).to(up.dtype)
        return None, grads[0], to_y, of_down, of_down_bias, of_up, of_up_bias
