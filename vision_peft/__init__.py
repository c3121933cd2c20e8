"""Parameter-efficient fine-tuning of timm vision transformers.

    import vision_peft as vp

    model = vp.create_backbone("vit_base_patch16_224.augreg_in21k", pretrained=True, num_classes=100)
    vp.attach(model, vp.AdaptFormer(bottleneck=64))

Every method class (``vp.AdaptFormer``, ``vp.VPT``, ``vp.LoRA``, ...) is an attribute of this package; ``vp.METHODS``
lists them by name. Importing the package imports nothing else: a name, or a folder of the package such as
``vp.training``, is imported when it is first used.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers read; the lines of the methods are written by .ci/list_methods.py
    from vision_peft.backbones import create_backbone
    from vision_peft.config.register import register
    from vision_peft.formats import Foreign, load_adapter, read_foreign, save_adapter, write_foreign
    from vision_peft.inference.bank.bank import Bank
    from vision_peft.inference.embed import embed
    from vision_peft.inference.load import load
    from vision_peft.inference.predictor import Predictor
    from vision_peft.methods import METHODS
    from vision_peft.methods.adalora import AdaLoRA
    from vision_peft.methods.adapter_plus import AdapterPlus
    from vision_peft.methods.adaptformer import AdaptFormer
    from vision_peft.methods.aim import AIM
    from vision_peft.methods.bi_adaptformer import BiAdaptFormer
    from vision_peft.methods.bi_lora import BiLoRA
    from vision_peft.methods.bitfit import BitFit
    from vision_peft.methods.convpass import Convpass
    from vision_peft.methods.dtl import DTL
    from vision_peft.methods.fact import FacT
    from vision_peft.methods.full import FullFineTune
    from vision_peft.methods.gps import GPS
    from vision_peft.methods.houlsby import Houlsby
    from vision_peft.methods.ia3 import IA3
    from vision_peft.methods.input_tuning import InputTuning
    from vision_peft.methods.knn import KNN
    from vision_peft.methods.linear import LinearProbe
    from vision_peft.methods.lora import LoRA
    from vision_peft.methods.lst import LST
    from vision_peft.methods.mona import Mona
    from vision_peft.methods.norm_tuning import NormTuning
    from vision_peft.methods.p_tuning import PTuning
    from vision_peft.methods.p_tuning_v2 import PTuningV2
    from vision_peft.methods.partial import PartialFineTune
    from vision_peft.methods.prefix_tuning import PrefixTuning
    from vision_peft.methods.prompt_tuning import PromptTuning
    from vision_peft.methods.repadapter import RepAdapter
    from vision_peft.methods.ssf import SSF
    from vision_peft.methods.st_adapter import STAdapter
    from vision_peft.methods.vera import VeRA
    from vision_peft.methods.vpt import VPT
    from vision_peft.methods.zero_i2v import ZeroI2V
    from vision_peft.tuning.attach import attach, detach, replace_head, train_mode
    from vision_peft.tuning.bake import bake
    from vision_peft.tuning.disable import disabled
    from vision_peft.tuning.finish_step import finish_step
    from vision_peft.tuning.merge import merge, unmerge
    from vision_peft.tuning.method import Method
    from vision_peft.tuning.quantize import quantize_backbone
    from vision_peft.tuning.recompute import set_recompute
    from vision_peft.tuning.short_block import restore_last_block, shorten_last_block
    from vision_peft.tuning.state import Counts, count_parameters, load_tuned, tuned_parameters, tuned_state_dict

    __version__: str

_MODULES = {  # where a name is imported from when it is first used; method classes are found by listing methods/
    "METHODS": "methods",
    "Bank": "inference.bank.bank",
    "Counts": "tuning.state",
    "Foreign": "formats",
    "Method": "tuning.method",
    "Predictor": "inference.predictor",
    "attach": "tuning.attach",
    "bake": "tuning.bake",
    "count_parameters": "tuning.state",
    "create_backbone": "backbones",
    "detach": "tuning.attach",
    "disabled": "tuning.disable",
    "embed": "inference.embed",
    "finish_step": "tuning.finish_step",
    "load": "inference.load",
    "load_adapter": "formats",
    "load_tuned": "tuning.state",
    "merge": "tuning.merge",
    "quantize_backbone": "tuning.quantize",
    "read_foreign": "formats",
    "register": "config.register",
    "replace_head": "tuning.attach",
    "restore_last_block": "tuning.short_block",
    "save_adapter": "formats",
    "set_recompute": "tuning.recompute",
    "shorten_last_block": "tuning.short_block",
    "train_mode": "tuning.attach",
    "tuned_parameters": "tuning.state",
    "tuned_state_dict": "tuning.state",
    "unmerge": "tuning.merge",
    "write_foreign": "formats",
}

__all__ = [
    "AIM",
    "DTL",
    "GPS",
    "IA3",
    "KNN",
    "LST",
    "METHODS",
    "SSF",
    "VPT",
    "AdaLoRA",
    "AdaptFormer",
    "AdapterPlus",
    "Bank",
    "BiAdaptFormer",
    "BiLoRA",
    "BitFit",
    "Convpass",
    "Counts",
    "FacT",
    "Foreign",
    "FullFineTune",
    "Houlsby",
    "InputTuning",
    "LinearProbe",
    "LoRA",
    "Method",
    "Mona",
    "NormTuning",
    "PTuning",
    "PTuningV2",
    "PartialFineTune",
    "Predictor",
    "PrefixTuning",
    "PromptTuning",
    "RepAdapter",
    "STAdapter",
    "VeRA",
    "ZeroI2V",
    "__version__",
    "attach",
    "bake",
    "count_parameters",
    "create_backbone",
    "detach",
    "disabled",
    "embed",
    "finish_step",
    "load",
    "load_adapter",
    "load_tuned",
    "merge",
    "quantize_backbone",
    "read_foreign",
    "register",
    "replace_head",
    "restore_last_block",
    "save_adapter",
    "set_recompute",
    "shorten_last_block",
    "train_mode",
    "tuned_parameters",
    "tuned_state_dict",
    "unmerge",
    "write_foreign",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _read_version()
    elif name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    elif importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    elif name in (classes := _find_method_classes()):
        value = classes[name]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; methods are {', '.join(classes)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_find_method_classes()})


def _find_method_classes() -> dict[str, type]:
    from vision_peft.methods import METHODS

    return {method.__name__: method for method in METHODS.values()}


def _read_version() -> str:
    """Read the version of the installed package, which comes from setup.cfg."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vision_peft")
    except PackageNotFoundError:
        return "0+not.installed"  # a clone on the path that nobody installed
