"""Whether a tensor or a model is cut into shards, asked without importing what cuts it, which takes a second of CPU.

As long as nobody has imported torch's tensors in shards there are none.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Any) -> "TypeGuard[DTensor]":
    """Whether every process holds a part of `tensor` only."""
    return _is_one_of(tensor, "torch.distributed.tensor", "DTensor")


def is_sharded_module(module: Any) -> "TypeGuard[FSDPModule]":
    """Whether torch's `fully_shard` has cut the weights of `module`."""
    return _is_one_of(module, "torch.distributed.fsdp", "FSDPModule")


def is_shard_error(error: BaseException) -> bool:
    """Whether torch's distributed checkpoint raised `error`, which is no `Exception` for Python."""
    return _is_one_of(error, "torch.distributed.checkpoint", "CheckpointException")


def _is_one_of(thing: Any, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(thing, kind)
