"""How a backbone was made: its name as one string, and the arguments that make it again, kept on the model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_ATTRIBUTE = "_created_with"
# A place on one machine, and what an adapter records of its own accord: they make no other backbone.
_NOT_KEPT = ("cache_dir", "drop_path_rate")


def note_arguments(model: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Keep on ``model`` the arguments of ``create_backbone`` that were given, for whoever has to make it again."""
    model.__dict__[_ATTRIBUTE] = {key: value for key, value in arguments.items() if key not in _NOT_KEPT}


def created_with(model: nn.Module) -> dict[str, Any] | None:
    """Return the arguments with which ``create_backbone`` made ``model``; None of a model made otherwise.

    ``seed`` among them is that of torch, where the weights are random and were drawn right after it was set;
    ``num_classes`` is there for random weights only, since drawing a head moves what is drawn after it.
    """
    return model.__dict__.get(_ATTRIBUTE)


def unused_seed() -> int | None:
    """Return the seed of torch's generator, where nothing has been drawn since it was set; else None."""
    seed = torch.initial_seed()
    fresh = torch.Generator().manual_seed(seed).get_state()
    return seed if torch.equal(fresh, torch.default_generator.get_state()) else None


def backbone_name(model: Any) -> str:
    """Return the name by which ``create_backbone`` makes ``model`` with its weights, empty if timm did not make it.

    It is ``<architecture>.<tag>``, the architecture alone where the weights are none of timm's sets, or timm's
    ``hf-hub:OWNER/NAME`` and ``local-dir:PATH``.
    """
    config = getattr(model, "pretrained_cfg", None) or {}  # absent on a model made without timm.create_model
    if config.get("source") == "hf-hub":
        return f"hf-hub:{config['hf_hub_id']}"
    if config.get("source") == "local-dir":
        return f"local-dir:{config['file']}"
    return ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
