"""Folders of HF peft (0.21) on timm models: ``adapter_config.json`` and ``adapter_model.safetensors``.

LoRA (plain, DoRA, rsLoRA, PiSSA, OLoRA, EVA, with patterns), AdaLoRA and VeRA. Such a folder holds no backbone. It
tells everything about the method; the head is in it where the run had ``modules_to_save=["head"]``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from vision_peft.formats.foreign.peft_adalora import read_adalora, write_adalora
from vision_peft.formats.foreign.peft_lora import read_lora, write_lora
from vision_peft.formats.foreign.peft_names import CONFIG, PREFIX, SEPARATE, short
from vision_peft.formats.foreign.peft_vera import read_vera, write_vera
from vision_peft.formats.foreign.read import Foreign, read_tensors
from vision_peft.formats.foreign.tensors import State, split_head
from vision_peft.methods.adalora import AdaLoRA
from vision_peft.methods.lora import LoRA
from vision_peft.methods.norm_tuning import NormTuning
from vision_peft.methods.vera import VeRA
from vision_peft.safe_files import read_file, write_together
from vision_peft.strict_json import parse_json
from vision_peft.tuning import graft, record
from vision_peft.tuning.backbone import classifier_names, has_blocks
from vision_peft.tuning.blocks import blocks, separate_biases
from vision_peft.tuning.heads import plain_head
from vision_peft.tuning.method import Method

TENSORS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
FILES = CONFIG, TENSORS
MAX_CONFIG = 2**24  # bytes
HEADS = ("head", "head_dist", "head.fc")
NORMS = ("norm", "fc_norm")  # behind the last block
_TYPES = {"LORA": LoRA, "ADALORA": AdaLoRA, "VERA": VeRA}


def read_folder(folder: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Tensors of a folder, and its config as a keyword of ``read``.

    Raises:
        FileNotFoundError: one of the two files is absent.
        ValueError: they cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no HF peft adapter at {folder}: {CONFIG} is missing")
    try:
        config = parse_json(read_file(path, MAX_CONFIG))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    tensors = folder / (TENSORS if (folder / TENSORS).is_file() else PICKLE)
    if not tensors.is_file():
        raise FileNotFoundError(f"no HF peft adapter at {folder}: {TENSORS} is missing")
    return read_tensors(tensors), {"config": config}


def read(state: State, *, config: Any = None) -> Foreign:
    """Map the keys of HF peft; attach ``methods`` to the backbone it was trained on and ``load_tuned`` the tensors.

    Under PiSSA and OLoRA the method takes off the original weights what HF peft took off them, by the same exact
    factorisation. An adapter with a LoRA on the head, which here trains whole, gives ``head_update``.

    Args:
        state: tensors of the folder.
        config: contents of its ``adapter_config.json``.

    Raises:
        ValueError: a method or setting that is not ours, or keys that are not of this code.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"HF peft records its method in {CONFIG}: pass the folder, or config=... with the tensors")
    kind = config.get("peft_type")
    if kind not in _TYPES:
        raise ValueError(f"cannot read a HF peft adapter of type {kind!r}: wanted {', '.join(_TYPES)}")
    state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    saved = config.get("modules_to_save") or []
    kept = {n: t for n, t in state.items() if n.startswith("head") and ".lora_" not in n}
    head_state, head = split_head({n: t for n, t in kept.items() if n.startswith("head.")})
    norms = {f"{name}.{part}" for name in NORMS if name in saved for part in ("weight", "bias")} & state.keys()
    beside = {**kept, **head_state, **{name: state[name] for name in norms}}
    state = {name: tensor for name, tensor in state.items() if name not in beside}
    update: State = {}
    if kind == "LORA":
        method, tuned, update = read_lora(state, config, set(HEADS))
    else:
        method, tuned = (read_adalora if kind == "ADALORA" else read_vera)(state, config)
    return Foreign(
        None,
        method,
        {**tuned, **beside},
        head,
        beside=(NormTuning(norms="final"),) if norms else (),
        head_update=update,
        on_some_blocks=True,
    )


def write(model: nn.Module, folder: Path) -> Path:
    """Write the adapter of ``model`` and its head so that ``PeftModel.from_pretrained(timm_model, folder)`` loads them.

    How a LoRA is written says ``write_lora``. A BatchNorm head is written as the linear layer it folds into.

    Raises:
        ValueError: something else than one LoRA, AdaLoRA or VeRA is attached, or timm would not call a layer that HF
            peft wraps.
    """
    tuning = record.find(model)
    methods = tuning.methods if tuning else []
    if len(methods) != 1 or not isinstance(methods[0], tuple(_TYPES.values())):
        got = ", ".join(type(method).__name__ for method in methods) or "nothing"
        raise ValueError(
            f"target hf_peft wants a model with one LoRA, AdaLoRA or VeRA attached and nothing else, got {got}"
        )
    state, config = _describe(model, methods[0])
    bypassed = has_blocks(model) and bool(separate_biases(blocks(model)[0]))
    if bypassed and any(short(name) in ("attn.qkv", *SEPARATE) for name, _ in graft.grafts(model)):
        raise ValueError(
            f"timm's {type(model).__name__} reads qkv.weight without calling qkv, so that HF peft's update would never "
            "act: use save_adapter, or merge and save the state_dict"
        )
    heads = {name: plain_head(model.get_submodule(name)) for name in classifier_names(model)}
    head_state = {f"{name}.{key}": t for name, head in heads.items() for key, t in head.state_dict().items()}
    state |= {f"{PREFIX}{name}": tensor for name, tensor in head_state.items()}
    config |= {
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "modules_to_save": list(heads) if head_state else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        TENSORS: safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in state.items()}, {"format": "pt"}),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
    }
    write_together(folder, contents)
    return folder


def _describe(model: nn.Module, method: Method) -> tuple[State, dict[str, Any]]:
    if isinstance(method, AdaLoRA):
        return write_adalora(model, method)
    return write_vera(model, method) if isinstance(method, VeRA) else write_lora(model, method)  # pyright: ignore
