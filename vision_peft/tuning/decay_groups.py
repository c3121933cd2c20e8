"""Groups of parameters for an optimiser: matrices get weight decay, vectors and what a model names do not.

The groups are timm's (`param_groups_weight_decay`), in its order, without importing its optimisers, of which one
imports torch's tensors in shards and with them a second's worth of modules.
"""

from fnmatch import fnmatch
from typing import Any

from torch import nn


def group_by_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups without and with decay of all that requires a gradient, each only if it has parameters."""
    named_by_model: Any = getattr(model, "no_weight_decay", set)()
    without, with_decay = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        vector = parameter.ndim <= 1 or name.endswith(".bias")
        exempt = not weight_decay or vector or any(fnmatch(name, pattern) for pattern in named_by_model)
        (without if exempt else with_decay).append(parameter)
    groups = [{"params": without, "weight_decay": 0.0}, {"params": with_decay, "weight_decay": weight_decay}]
    return [group for group in groups if group["params"]]
