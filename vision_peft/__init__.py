"""Parameter-efficient fine-tuning of timm vision transformers.

    import vision_peft as vp

    model = vp.create_backbone("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=100)
    vp.attach(model, vp.AdaptFormer(bottleneck=64))

Every method class (``vp.AdaptFormer``, ``vp.VPT``, ``vp.LoRA``, ...) is an attribute of this package; ``vp.METHODS``
lists them by name.
"""

from typing import Any

from vision_peft.backbones import create_backbone
from vision_peft.formats import Foreign, load_adapter, read_foreign, save_adapter, write_foreign
from vision_peft.methods import METHODS
from vision_peft.tuning.attach import attach, detach, replace_head, train_mode
from vision_peft.tuning.bake import bake
from vision_peft.tuning.disable import disabled
from vision_peft.tuning.merge import merge, unmerge
from vision_peft.tuning.method import Method
from vision_peft.tuning.state import Counts, count_parameters, load_tuned, tuned_parameters, tuned_state_dict

__all__ = [
    "METHODS",
    "Counts",
    "Foreign",
    "Method",
    "attach",
    "bake",
    "count_parameters",
    "create_backbone",
    "detach",
    "disabled",
    "load_adapter",
    "load_tuned",
    "merge",
    "read_foreign",
    "replace_head",
    "save_adapter",
    "train_mode",
    "tuned_parameters",
    "tuned_state_dict",
    "unmerge",
    "write_foreign",
]

_CLASSES = {method.__name__: method for method in METHODS.values()}


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return _CLASSES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; methods are {', '.join(_CLASSES)}")


def __dir__() -> list[str]:
    return [*__all__, *_CLASSES]
