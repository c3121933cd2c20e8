"""What makes a program wait for its device, counted on any device: numbers that are read out of tensors."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READ_WHOLE = (Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.nonzero, torch.nonzero)
_EXCHANGES = ("all_reduce", "all_gather", "broadcast", "barrier", "all_gather_into_tensor", "gather", "scatter")


class _Scalars(TorchDispatchMode):
    """Counts tensors of one number that are read, by whatever way: `item`, `bool`, `float`, a comparison in an `if`."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.found["reads"] += 1
        return func(*args, **(kwargs or {}))


class _Wholes(TorchFunctionMode):
    """Counts tensors that are read whole; integers are indices of samples, which a loader makes on the CPU."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _READ_WHOLE and args[0].dtype != torch.int64:
            self.found["reads"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def count_waits() -> Iterator[Counter[str]]:
    """Count inside `reads` of tensors, and `exchanges` with other processes that are called by name."""
    found: Counter[str] = Counter()

    def counting(real: Any) -> Any:
        def exchange(*args: Any, **kwargs: Any) -> Any:
            found["exchanges"] += 1
            return real(*args, **kwargs)

        return exchange

    with ExitStack() as stack:
        for name in _EXCHANGES:
            stack.enter_context(mock.patch.object(dist, name, counting(getattr(dist, name))))
        stack.enter_context(_Scalars(found))
        stack.enter_context(_Wholes(found))
        yield found
