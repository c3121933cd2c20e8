"""Which kernel computes the attention of a model: torch's fused ones, or one that holds all scores in memory.

`F.scaled_dot_product_attention` chooses by what it is given, and says nothing where it takes the slow way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_PREFIX = "_scaled_dot_product_"


@dataclass(frozen=True)
class AttentionCall:
    """One computation of attention in a forward pass."""

    kernel: str  # flash | efficient | cudnn | math (torch without a fused kernel) | softmax (the model without torch's)
    reason: str = ""  # what no fused kernel takes, as far as it is known; of math only


def find_kernels(model: nn.Module, images: Tensor) -> set[str]:
    """Return the kernels that compute attention in a forward pass; see `list_attention`."""
    return {call.kernel for call in list_attention(model, images)}


def list_attention(model: nn.Module, images: Tensor) -> list[AttentionCall]:
    """List each computation of attention of a forward pass, with what computes it.

    The kernel depends on device, precision and on what requires a gradient: call it in the mode and under the autocast
    of the passes that are asked about. A compiled model chooses as the model does that it was made of, which is to be
    given here.

    Args:
        images: B C H W or clips B C T H W, on the device of `model`.
    """
    with _WatchKernels() as watched:
        model(images)
    return watched.calls


class _WatchKernels(TorchFunctionMode):
    """Notes each call of torch's attention, and each softmax over scores (B heads queries keys)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[AttentionCall] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            with _NoteKernel() as noted:
                result = func(*args, **given)
            reason = _say_why_math(*args, **given) if noted.kernel == "math" else ""
            self.calls.append(AttentionCall(noted.kernel, reason))
            return result
        result = func(*args, **given)
        if func in (Tensor.softmax, torch.softmax, F.softmax) and result.ndim >= 4:
            self.calls.append(AttentionCall("softmax"))
        return result


class _NoteKernel(TorchDispatchMode):
    """Notes the fused kernel that a call of torch's attention comes to; where there is none, its parts are products."""

    kernel = "math"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(_PREFIX):
            self.kernel = name.removeprefix(_PREFIX).partition("_")[0]
        return func(*args, **(kwargs or {}))


def _say_why_math(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> str:
    """Say which of what torch's attention was given no fused kernel of the CPU takes; empty where it is not known."""
    if q.ndim > 4:
        return f"queries of {q.ndim} axes"
    if attn_mask is not None and attn_mask.ndim not in (2, q.ndim):
        return f"a bias of {attn_mask.ndim} axes"
    if attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled():
        return "a bias that gets a gradient"
    if dropout_p:
        return "dropout of scores"
    return "values of another width than keys" if k.shape[-1] != v.shape[-1] else ""
