"""The model as training runs it: compiled, then wrapped for several processes; attaching comes before both.

ddp holds the model in every process and averages the gradients of what trains (torch's DistributedDataParallel).

fsdp2 (torch's ``fully_shard``) cuts the weights of the backbone, frozen or trained, into shards, one group a block,
that come together only while their block computes. What a method adds, and the head, is small: every process holds it
whole, and the gradients of all of it are averaged in one go.
"""

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import vision_peft as vp
from vision_peft.distributed.device import Compute
from vision_peft.distributed.processes import all_reduce_sum, is_distributed
from vision_peft.distributed.whole_batchnorm import WholeBatchNorm
from vision_peft.shards import is_sharded, is_sharded_module
from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.graft import depth, graft, ungraft
from vision_peft.tuning.record import graft_tensors, head_tensors

# DDP's switch for sending buffers around before every forward pass: they follow from what all processes share
_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class Parallel:
    """Forward passes of `model` and the gradients of its trained parameters over all processes.

    The model is changed in place and stays so; `close` takes off what would be in the way of saving it.

    Args:
        compiled: whether torch.compile takes the model; blocks: each block by itself, equal ones share their code.
        mode: of torch.compile.
    """

    def __init__(self, model: Any, compute: Compute, compiled: bool | str = False, mode: str = "default") -> None:
        self.model, self._whole = model, []
        self._compiled: list[tuple[Any, Any]] = []  # blocks, and their forward passes
        # those of heads: others of timm are classes of their own, and stay in eval mode
        norms = [module for module in model.modules() if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d)]
        self._norms = norms if is_distributed() else []
        for norm in self._norms:
            graft(norm, WholeBatchNorm)
        self.forward: Any = model
        if compute.sharded:
            self._whole = _shard(model, compute, mode if compiled else None)
        elif compiled == "blocks" and has_blocks(model):
            self._compiled = [(block, torch.compile(block.forward, mode=mode)) for block in blocks(model)]
        elif compiled:
            self.forward = torch.compile(model, mode=mode)
        self._ddp: DistributedDataParallel | None = None
        if is_distributed() and not compute.sharded:
            devices = [compute.device] if compute.device.type == "cuda" else None
            settings: dict[str, Any] = {_BUFFERS: False}
            self._ddp = self.forward = DistributedDataParallel(self.forward, devices, **settings)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a part of the batch; gradients of all processes meet in the last one."""
        if is_sharded_module(self.model):
            self.model.set_requires_gradient_sync(last)
        for block, forward in self._compiled:
            block.forward = forward
        try:
            with contextlib.nullcontext() if self._ddp is None or last else self._ddp.no_sync():
                yield
        finally:
            for block, _ in self._compiled:
                del block.forward
        if last and self._whole:
            _average_gradients([parameter.grad for parameter in self._whole if parameter.grad is not None])

    def close(self) -> None:
        """Leave BatchNorm as it was."""
        for norm in self._norms:
            ungraft(norm, keep=depth(norm) - 1)


def _shard(model: Any, compute: Compute, compiled: str | None) -> list[nn.Parameter]:
    """Cut the backbone of `model` into shards on the device, blocks `compiled` in this mode; what stays whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    added = [
        tensor
        for tensor in {**graft_tensors(model), **head_tensors(model)}.values()
        if isinstance(tensor, nn.Parameter)
    ]
    mesh = init_device_mesh(compute.device.type, (compute.world_size,))
    for block in blocks(model) if has_blocks(model) else []:
        if compiled:
            block.compile(mode=compiled)
        fully_shard(block, mesh=mesh, ignored_params=set(added))
    # torch would keep the outermost group together after a forward pass without backward
    fully_shard(model, mesh=mesh, ignored_params=set(added), reshard_after_forward=True)
    for parameter in added:
        parameter.data = parameter.data.to(compute.device)
    return [parameter for parameter in added if parameter.requires_grad]


def _average_gradients(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together, the same on every process."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sharded = [gradient for gradient in gradients if is_sharded(gradient)]
    norm = nn.utils.get_total_norm([gradient for gradient in gradients if not is_sharded(gradient)])
    if not sharded:
        return norm
    of_shards: Any = nn.utils.get_total_norm(sharded)
    return torch.hypot(norm.to(sharded[0].device), of_shards.full_tensor())


def clip_gradients(parameters: Sequence[nn.Parameter], most: float, norm: Tensor) -> None:
    """Scale all gradients, whose `norm` is known, so that it is at most `most`; those in shards by themselves."""
    for sharded in (False, True):
        group = [parameter for parameter in parameters if is_sharded(parameter.grad) == sharded]
        nn.utils.clip_grads_with_norm_(group, most, norm)


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor from its shards; every process must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a whole tensor as `like` is."""
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def load_tuned(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`vp.load_tuned` of whole tensors, also into a model whose backbone is cut into shards."""
    own = vp.tuned_state_dict(model)
    vp.load_tuned(model, {name: shard_like(t, own[name]) if name in own else t for name, t in tensors.items()})


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no process holds a NaN or an infinity."""
    local = [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]
    return not all_reduce_sum([sum(not bool(tensor.isfinite().all()) for tensor in local)])[0]
