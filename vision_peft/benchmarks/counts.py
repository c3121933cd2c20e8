"""What a forward or an update of a model costs that no clock is needed for: operations and bytes.

All of it is seen at the operations that torch dispatches, so that nothing of a model is changed; what is compiled
dispatches nothing, and is counted before it is compiled.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from vision_peft.tuning.blocks import blocks


def _flops_of_attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _flops_of_attention_backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


# The CPU's fused attention, which torch's counter takes for nothing.
_ON_CPU: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _flops_of_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _flops_of_attention_backward,
}


def count_flops(run: Callable[[], object]) -> int:
    """Count the floating point operations of matrix products, convolutions and attention; a multiply-add counts two."""
    with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
        run()
    return counter.get_total_flops()


class StorageWatch(TorchDispatchMode):
    """Bytes of the tensors that operations inside made and that are still alive, each storage once.

    What a kernel allocates for itself and frees is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0  # of all in `_seen`, some of them perhaps gone
        self.peak = 0  # most bytes that were alive at once

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in given:
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        address = _address(tensor)
        if address in self._seen and not self._seen[address][0].expired():
            return
        storage = tensor.untyped_storage()
        self._bytes += storage.nbytes() - self._seen.get(address, (None, 0))[1]
        self._seen[address] = (StorageWeakRef(storage), storage.nbytes())
        if self._bytes > self.peak:  # it may be that some are gone: only then it costs to look
            self.peak = max(self.peak, self.count_alive())

    def count_alive(self, without: Iterable[Tensor] = ()) -> int:
        """Count the bytes that are alive now, those of tensors `without` left out."""
        self._seen = {address: entry for address, entry in self._seen.items() if not entry[0].expired()}
        self._bytes = sum(size for _, size in self._seen.values())
        left_out = {_address(tensor) for tensor in without}
        return sum(size for address, (_, size) in self._seen.items() if address not in left_out)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def measure_saved_bytes(compute_loss: Callable[[], Tensor]) -> int:
    """Measure the bytes that a forward pass leaves in memory for its backward pass, the loss itself left out.

    Those are the storages that came into being and are still alive when only the loss is held: what autograd saved,
    inputs of recomputed blocks included. Parameters, buffers and images were there before and do not count.
    """
    with StorageWatch() as watch:
        loss = compute_loss()
    return watch.count_alive(without=[loss])


def measure_backward(compute_loss: Callable[[], Tensor]) -> tuple[int, int]:
    """Measure the bytes saved for backward and the most that were alive at once in forward and backward.

    The gradients that are left, which the second figure counts, stay on the parameters.
    """
    with StorageWatch() as watch:
        loss = compute_loss()
        saved = watch.count_alive(without=[loss])
        loss.backward()
    return saved, watch.peak


def count_resident_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Count the bytes of parameters, buffers and the optimiser's state, as if nothing else shared them."""
    state = [leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor)]
    tensors = {_address(tensor): tensor for tensor in [*model.parameters(), *model.buffers(), *state]}
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


def count_block_elements(model: nn.Module, run: Callable[[], object]) -> int:
    """Count the elements that enter the blocks of `model` while `run` calls it: B N D times depth on a flat ViT."""
    found: list[int] = []
    with _watch_inputs(blocks(model), lambda x: found.append(x.numel())):
        run()
    return sum(found)


@contextlib.contextmanager
def _watch_inputs(modules: Iterable[nn.Module], see: Callable[[Tensor], None]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(lambda _, args: see(args[0])) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
