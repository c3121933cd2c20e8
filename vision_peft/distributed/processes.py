"""The processes of one training: joined once, asked together, and named when one of them is lost.

torchrun starts them (`torchrun --nproc_per_node=2 -m vision_peft train ...`) and says by RANK, WORLD_SIZE, LOCAL_RANK
who is who. Numbers and JSON that processes agree on travel over gloo on the CPU; gradients on GPUs over NCCL.
"""

import atexit
import contextlib
import datetime
import itertools
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vision_peft.distributed.device import Compute
from vision_peft.distributed.exchange import (
    broadcast_json,
    describe_error,
    gather_json,
    gather_tensors,
    make_error,
    through_json,
)
from vision_peft.origins import list_torch_frames
from vision_peft.printable import show

T = TypeVar("T")
BACKWARD_TOGETHER_S = 5  # between two processes whose backward pass fails by the same fault of the program
_times = itertools.count()  # that `reached_by_all` was asked
_store: list[Any] = []  # the store that the processes met at; empty before


class LostProcess(RuntimeError):
    """Another process died or does not answer; the message names it."""


def join(compute: Compute, timeout_s: int) -> None:
    """Meet the other processes, once in the life of this one; alone there is nobody to meet.

    Args:
        timeout_s: seconds that a process waits for another in any operation before it gives up.

    Raises:
        LostProcess: not all processes came.
    """
    if compute.world_size == 1 or dist.is_initialized():
        return
    timeout = datetime.timedelta(seconds=timeout_s)
    if compute.device.type == "cuda":
        torch.cuda.set_device(compute.device)
    backend = "cpu:gloo,cuda:nccl" if compute.device.type == "cuda" else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        store = fresh_store(store, rank, size, timeout_s)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except RuntimeError as error:
        if isinstance(error, LostProcess) or not is_communication_error(error):
            raise
        who = f"process {compute.rank} of {compute.world_size}"
        raise LostProcess(f"{who} could not reach the others ({str(error).splitlines()[0]})") from error
    _store.append(store)
    atexit.register(_leave)


def fresh_store(store: dist.Store, rank: int, size: int, timeout_s: float) -> dist.Store:
    """Agree on a part of `store` that only the processes of this start use.

    After a restart torchrun hands out the same store, in which the addresses of processes that are gone still stand
    (pytorch issue 135712). So every process shows a word that is new, and the one of rank 0 answers each such word
    with the name of the part until all have confirmed that name.
    """
    name, end = uuid.uuid4().hex, time.monotonic() + timeout_s
    if rank:
        store.set(f"came/{rank}", name)
        while not store.check([f"answer/{name}"]):
            _wait(end, f"process {rank} waited {timeout_s} s for process 0, which did not answer")
        name = store.get(f"answer/{name}").decode()
        store.set(f"{name}/met/{rank}", "")
        return dist.PrefixStore(name, store)
    missing = list(range(1, size))
    while missing := [other for other in missing if not store.check([f"{name}/met/{other}"])]:
        for other in missing:
            if store.check([f"came/{other}"]):
                store.set(f"answer/{store.get(f'came/{other}').decode()}", name)
        _wait(end, f"process 0 waited {timeout_s} s for process {', '.join(map(str, missing))}: never reported")
    return dist.PrefixStore(name, store)


def _wait(end: float, words: str) -> None:
    """Sleep a little; LostProcess with `words` after the time `end`."""
    if time.monotonic() > end:
        raise LostProcess(words)
    time.sleep(0.01)


def is_distributed() -> bool:
    """Whether several processes have met."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(numbers: Sequence[float]) -> list[float]:
    """Sum over all processes, with the same result on each; a single process gets its own numbers."""
    if not is_distributed():
        return list(numbers)
    summed = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed.tolist()


def all_gather(value: Any) -> list[Any]:
    """Return `value` of every process in the order of their ranks; of this one alone where it is alone.

    It is made of lists, dicts with text as keys, text, numbers and None; tuples come as lists.
    """
    return gather_json(value) if is_distributed() else [through_json(value)]


def all_gather_numbers(numbers: Sequence[float]) -> list[list[float]]:
    """Return the numbers of every process, of each as many, in the order of their ranks; in a single exchange."""
    if not is_distributed():
        return [list(numbers)]
    own = torch.tensor(numbers, dtype=torch.float64)
    shares = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, own)
    return [share.tolist() for share in shares]


def all_gather_tensors(tensor: Tensor) -> list[Tensor]:
    """Return a tensor (N ...) on the CPU of every process, of which N may differ, type and other sizes may not."""
    return gather_tensors(tensor) if is_distributed() else [tensor]


def take_from_rank0(tensors: Iterable[Tensor]) -> None:
    """Write what ``tensors`` are on rank 0 over those of every process: what each computed may differ by rounding."""
    for tensor in tensors if is_distributed() else ():
        dist.broadcast(tensor, src=0)


def on_rank0(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 only and return its result on all processes; an error there is raised in all of them.

    The result is made of lists, dicts with text as keys, text, numbers and None; tuples come as lists.
    """
    if not is_distributed():
        return through_json(action())
    if dist.get_rank():
        result, error = broadcast_json()
        if error is not None:
            raise make_error(error)
        return result
    try:
        result = through_json(action())
    except Exception as error:
        broadcast_json([None, describe_error(error)])
        raise
    broadcast_json([result, None])
    return result


@contextlib.contextmanager
def rank0_first() -> Iterator[None]:
    """One process of each machine runs the body before the others: what it downloads or writes is there for them."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if is_distributed() and not first:
        dist.barrier()
    try:
        yield
    finally:  # also after an error, which the others will meet themselves
        if is_distributed() and first:
            dist.barrier()


def print_rank0(text: str) -> None:
    """Print a line in the process of rank 0 only, also before the processes have met."""
    if os.environ.get("RANK", "0") == "0":
        show(text)


def reached_by_all(event: str, timeout_s: float) -> bool:
    """Whether every process comes here with the same `event`, as many times as the others, within `timeout_s` seconds.

    Unlike the others it may be asked while processes are elsewhere, in an exchange that this one has left.
    """
    if not is_distributed() or not _store:
        return not is_distributed()
    time_asked = next(_times)
    keys = [f"{event}/{time_asked}/{rank}" for rank in range(dist.get_world_size())]
    _store[0].set(keys[dist.get_rank()], "")
    try:
        _store[0].wait(keys, datetime.timedelta(seconds=timeout_s))
    except RuntimeError:  # time is up, or the store is gone
        return False
    return True


class Heartbeat:
    """How far every process is, so that the one that is lost can be named."""

    def __init__(self) -> None:
        self._last_beat = 0.0

    def beat(self, step: int) -> None:
        """Tell the others, at most once a second, that this process has done `step` updates."""
        if not _store or time.monotonic() - self._last_beat < 1:
            return
        self._last_beat = time.monotonic()
        _store[0].set(f"heartbeat/{dist.get_rank()}", f"{step} {socket.gethostname()} {os.getpid()} {time.time()}")

    @contextlib.contextmanager
    def raise_lost_process(self) -> Iterator[None]:
        """Turn a failed exchange inside into `LostProcess`."""
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            if not is_distributed() or not is_communication_error(error):
                raise
            raise LostProcess(f"{self._describe_lost()} ({str(error).splitlines()[0]})") from error

    def _describe_lost(self) -> str:
        rank, now, words, found = dist.get_rank(), time.time(), [], []
        try:
            for other in range(dist.get_world_size()):
                if other != rank and not _store[0].check([f"heartbeat/{other}"]):
                    words.append(f"process {other} never reported")
                elif other != rank:
                    step, host, pid, when = _store[0].get(f"heartbeat/{other}").decode().split()
                    found.append((float(when), f"process {other} ({host}, pid {pid}), last reported at update {step}"))
        except (RuntimeError, ValueError):  # the store went with its process
            return f"process {rank} lost the others: the process that held their store is gone"
        if found:  # whoever is lost was silent for longest
            when, who = min(found)
            words.append(f"{who}, {now - when:.0f} s ago")
        return f"process {rank} waits for another process that does not answer, most likely {'; '.join(words)}"


def is_communication_error(error: BaseException) -> bool:
    """Whether an exchange between processes failed.

    gloo and the store raise plain RuntimeErrors as well, as a model does. What tells them apart is where they were
    raised: in torch.distributed; or in a backward pass, inside which torch exchanges gradients, if not all processes
    come away from it with an error. A dataset or a disk that fails, in whatever words, is not a failed exchange.
    """
    if isinstance(error, dist.DistError):
        return True
    if type(error) is not RuntimeError:
        return False
    rooms = {".".join(module.split(".")[:2]) for module in list_torch_frames(error)}
    if "torch.autograd" in rooms and "torch.distributed" not in rooms:
        return is_distributed() and not reached_by_all("backward failed", BACKWARD_TOGETHER_S)
    return "torch.distributed" in rooms


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
