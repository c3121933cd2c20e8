"""What processes hand to each other for one update: computed from the tensors, and counted while it happens.

ddp averages the gradients of what trains. fsdp2 does so for what methods added and for the head; besides it gathers the
backbone's weights before each block computes, and again for a backward pass that goes through it, and hands the
gradients of trained backbone weights to the processes that hold them. Not counted are the statistics of a head's
BatchNorm and what `run_update` agrees on, some bytes each.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vision_peft as vp
from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.record import graft_tensors, head_tensors


@dataclass
class Traffic:
    """Bytes of the whole tensors that processes exchange."""

    averaged: int = 0  # gradients that every process gets (all_reduce)
    gathered: int = 0  # weights of which every process holds a shard (all_gather)
    scattered: int = 0  # gradients of which every process gets a shard (reduce_scatter)

    def sent(self, processes: int) -> int:
        """Bytes that each process sends, and receives, where each exchange goes around in a ring."""
        return round((2 * self.averaged + self.gathered + self.scattered) * (processes - 1) / processes)


def compute_traffic(model: nn.Module, images: Tensor, strategy: str, processes: int, micro_batches: int = 1) -> Traffic:
    """Compute what an update of a tuned model needs.

    Args:
        model: in the mode of training, with methods and head attached, not yet in shards; it runs once.
        images: some that fit it, on its device; how many does not matter.
        strategy: ddp | fsdp2
    """
    trained = {parameter for _, parameter in vp.tuned_parameters(model)}
    if processes == 1:
        return Traffic()
    if strategy == "ddp":
        return Traffic(averaged=sum(map(_count_bytes, trained)))
    whole = {*graft_tensors(model).values(), *head_tensors(model).values()}
    layers: list[Any] = blocks(model) if has_blocks(model) else []
    groups = [[tensor for tensor in layer.parameters() if tensor not in whole] for layer in layers]
    inside = {tensor for group in groups for tensor in group}
    outermost = [tensor for tensor in model.parameters() if tensor not in whole | inside]
    sizes = [_count_in_shards(group, processes) for group in groups]
    first = _find_first_reached(model, layers, images)
    # torch gathers one more block in advance, which nothing goes back through
    backward = sizes[max(first - 1, 0) :]
    return Traffic(
        averaged=sum(map(_count_bytes, trained & whole)),
        gathered=micro_batches * (2 * _count_in_shards(outermost, processes) + sum(sizes) + sum(backward)),
        scattered=_count_in_shards([tensor for tensor in model.parameters() if tensor in trained - whole], processes),
    )


@contextlib.contextmanager
def measure_traffic() -> Iterator[Traffic]:
    """Count what this process exchanges with the others inside, over any backend of torch."""
    with _WatchExchanges() as watched:
        yield watched.traffic


class _WatchExchanges(TorchDispatchMode):
    """Adds up the bytes of collective operations; a broadcast is none that an update needs."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "c10d" and name in _KINDS:
            kind, place = _KINDS[name]
            tensors = [leaf for leaf in tree_leaves(args[place]) if isinstance(leaf, Tensor)]
            setattr(self.traffic, kind, getattr(self.traffic, kind) + sum(map(_count_bytes, tensors)))
        return func(*args, **(kwargs or {}))


# Operation of torch.distributed -> what it counts as, and which of its arguments are the whole tensors
_KINDS = {
    "allreduce_": ("averaged", 0),
    "allreduce_coalesced_": ("averaged", 0),
    "allgather_": ("gathered", 0),
    "_allgather_base_": ("gathered", 0),
    "allgather_into_tensor_coalesced_": ("gathered", 0),
    "reduce_scatter_": ("scattered", 1),
    "_reduce_scatter_base_": ("scattered", 1),
    "reduce_scatter_tensor_coalesced_": ("scattered", 1),
}


def _count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _count_in_shards(tensors: Sequence[Tensor], processes: int) -> int:
    """Count the bytes of tensors that are cut along their first axis into parts of one size, the last one padded."""
    rows = [math.ceil(len(tensor) / processes) * processes for tensor in tensors]
    return sum(number * _count_bytes(tensor) // len(tensor) for number, tensor in zip(rows, tensors, strict=True))


def _find_first_reached(model: nn.Module, layers: list[Any], images: Tensor) -> int:
    """Find the first block that a backward pass goes through; their number where it goes through none."""
    reached: list[bool] = []
    hooks = [layer.register_forward_hook(lambda *given: reached.append(_needs_gradient(given[2]))) for layer in layers]
    try:
        with torch.enable_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return reached.index(True) if True in reached else len(layers)


def _needs_gradient(output: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output))
