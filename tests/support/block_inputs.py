"""What timm hands to its modules in a real forward, and what a model looks like at one moment."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Call = tuple[Any, tuple[Tensor, ...], dict[str, Any], Tensor]


@contextmanager
def recorded_calls(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Every call of ``modules`` within the context, in order: (module, arguments, keyword arguments, output)."""
    calls: list[Call] = []
    handles = [
        module.register_forward_hook(lambda m, args, kwargs, y: calls.append((m, args, kwargs, y)), with_kwargs=True)
        for module in modules
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def snapshot(model: Any) -> dict[str, Any]:
    """Classes, attributes, parameters, flags and modes of all modules."""
    return {
        "classes": [type(module) for module in model.modules()],
        "attributes": [set(vars(module)) for module in model.modules()],
        "parameters": [(name, id(p), p.requires_grad) for name, p in model.named_parameters()],
        "modes": [module.training for module in model.modules()],
        "num_features": model.num_features,
    }
