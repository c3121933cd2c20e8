"""State that one layer of a forward pass leaves for another: each thread has its own, and blocks that run again theirs.

With gradient checkpointing blocks run again in the backward pass, perhaps after the forward of another batch, and on a
GPU in a thread of autograd's. Then their input tells which forward they belong to: checkpointing hands it over again
(``fully_shard`` a view of it).
"""

import threading
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class ThreadState:
    """Attributes of ``own`` are those of the thread that asks. Copies start empty."""

    def __init__(self) -> None:
        self.own: Any = threading.local()  # a plain one, which torch.compile follows

    def __deepcopy__(self, memo: Any) -> Any:
        rebuild, arguments = self.__reduce__()
        return rebuild(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class InputMemory:
    """Values by the input of a block, for as long as that lives."""

    def __init__(self) -> None:
        self._values: Any = WeakIdKeyDictionary()

    def recall(self, x: Tensor, value: Any) -> Any:
        """Return what was kept for ``x`` where its block runs again in the backward pass; else keep ``value`` for it.

        ``value`` comes back where nothing was kept, and where no backward pass can follow.
        """
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return value
        key = x if x._base is None else x._base
        if is_backward():
            return self._values.get(key, value)
        self._values[key] = value
        return value


def is_backward() -> bool:
    """Tell whether this thread is in a backward pass."""
    engine: Any = torch._C
    return engine._current_graph_task_id() != -1  # as torch's own checkpointing asks
