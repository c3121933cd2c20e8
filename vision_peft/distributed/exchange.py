"""What processes hand to each other: JSON and tensors, over gloo on the CPU. Nothing in what arrives is run."""

import json
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

E = TypeVar("E", bound=type[Exception])
# Errors that one process raises and another raises again, by name; those of other classes come as their base.
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(ValueError, TypeError, KeyError, IndexError, ArithmeticError, FloatingPointError, OverflowError, OSError),
        *(ImportError, ModuleNotFoundError, NotImplementedError, RuntimeError, MemoryError),
    )
}


def travels(kind: E) -> E:
    """Decorate an error that processes hand to each other: its arguments, which JSON holds, make it again."""
    _ERRORS[kind.__name__] = kind
    return kind


def gather_json(value: Any) -> list[Any]:
    """Return `value` of every process, in the order of their ranks, as JSON gives it back."""
    return [_read(part) for part in gather_tensors(_write(value))]


def gather_tensors(tensor: Tensor) -> list[Tensor]:
    """Return a tensor (N ...) on the CPU of every process, in the order of their ranks.

    N may differ between them, type and other sizes must not.
    """
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)]))
    padded = tensor.new_zeros(int(max(sizes)), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def broadcast_json(value: Any = None) -> Any:
    """Return `value` of rank 0 in all processes, as JSON gives it back."""
    tensor = _write(value)
    size = torch.tensor([len(tensor)])
    dist.broadcast(size, src=0)
    if dist.get_rank():
        tensor = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(tensor, src=0)
    return _read(tensor)


def through_json(value: Any) -> Any:
    """Return `value` as another process would get it, TypeError where it would not."""
    return json.loads(json.dumps(value))


def describe_error(error: Exception) -> list[Any]:
    """Return name and arguments of an error, as JSON holds them; of one that cannot travel those of its base."""
    kind = next((kind for kind in type(error).__mro__ if _ERRORS.get(kind.__name__) is kind), RuntimeError)
    if isinstance(error, OSError):
        arguments = [error.errno, error.strerror, error.filename] if error.errno is not None else [*error.args]
    else:
        arguments = [*error.args]
    plain = kind is type(error) or kind is OSError
    if not plain or not all(isinstance(each, str | int | float | list | None) for each in arguments):
        arguments = [str(error) if kind is not RuntimeError else f"{type(error).__name__}: {error}"]
    return [kind.__name__, arguments]


def make_error(described: list[Any]) -> Exception:
    """Make the error that `describe_error` described."""
    name, arguments = described
    return _ERRORS[name](*arguments)


def _write(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _read(tensor: Tensor) -> Any:
    return json.loads(tensor.numpy().tobytes())
