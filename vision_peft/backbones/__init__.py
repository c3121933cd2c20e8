"""Backbones: plain timm models and where their weights come from.

A name below is imported when it is first used: the modules that look after weights are free of timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vision_peft.backbones.create import create_backbone, input_config
    from vision_peft.backbones.provenance import backbone_name

__all__ = ["backbone_name", "create_backbone", "input_config"]

_MODULES = {"backbone_name": "provenance", "create_backbone": "create", "input_config": "create"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
