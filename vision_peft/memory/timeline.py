"""The bytes of all tensors that come into being while something runs, operation by operation.

Every operation of torch, of the forward and of the backward pass, is seen as it returns; a storage counts from then on
until nothing holds it any more. So what autograd keeps for the backward pass counts for as long as it keeps it, and a
temporary tensor for as long as it lives. What a kernel takes and gives back inside one operation is not seen.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):
    """Notes after every operation the bytes of the storages that it and the ones before it made and that live."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.after = 0, []
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._see(tensor, 0)  # it was there before, or is counted already
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor, tensor.untyped_storage().nbytes())
        self.after.append(self.live)
        return result

    def _see(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        self._known.add(address)
        self.live += size
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def record_live_bytes(run: Callable[[], Any]) -> list[int]:
    """Run something and return the live bytes that it made, after each of its operations."""
    with _Live() as mode:
        result = run()
    del result
    return mode.after


def extrapolate_peak(one: list[int], other: list[int], sizes: tuple[int, int], batch: int) -> float:
    """Return the highest of what two runs, of so many items each, come to with ``batch`` items.

    Every operation by itself goes up in a straight line, so that the peak may be at another one than in the two runs.
    Where the runs have different operations, their peaks take the place of them.
    """
    if len(one) != len(other):
        one, other = [max(one, default=0)], [max(other, default=0)]
    share = (batch - sizes[0]) / (sizes[1] - sizes[0])
    return max((first + share * (second - first) for first, second in zip(one, other, strict=True)), default=0.0)
