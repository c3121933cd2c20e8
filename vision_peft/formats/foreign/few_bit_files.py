"""What the files of JieShibo/PETL-ViT@026e4f1 binary_adapter have in common (binary_adapter/utils.py).

A file is bytes without a header: of every quantised layer in order the packed codes, then μ and σ as float32; then the
head, either such a layer of 1 bit without a bias, or weight and bias in float32. Sizes, bits and s are in a yaml file
there; here ``write`` puts them beside the bytes in ``keywords.json``, which a folder is read with.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vision_peft.backbones.bounds import MAX_DEPTH, MAX_NUMBER
from vision_peft.formats.foreign.tensors import State
from vision_peft.printable import printable
from vision_peft.safe_files import read_file, write_together
from vision_peft.strict_json import parse_json
from vision_peft.tuning import record
from vision_peft.tuning.bake import baked_head_kind, baked_state_dict
from vision_peft.tuning.few_bit_linear import BITS
from vision_peft.tuning.method import one_of
from vision_peft.tuning.packed_codes import packed_size

FILES = FILE, KEYWORDS = "adapter.bin", "keywords.json"
RAW = "file_bytes"  # the name of a file's bytes among tensors
_MOST = 2**28  # bytes of a file


class Layer(NamedTuple):
    """A quantised layer of a file: its name here, its size."""

    name: str
    count: int  # of weights


def read_raw(path: Path) -> State:
    """Return the bytes of a file as a tensor."""
    return {RAW: torch.from_numpy(np.frombuffer(read_file(path, _MOST), np.uint8).copy())}


def read_folder(folder: Path) -> tuple[State, dict[str, Any]]:
    """Read what ``write`` wrote: the bytes and the keywords."""
    keywords = parse_json(read_file(folder / KEYWORDS, 2**16))
    if not isinstance(keywords, dict):
        raise ValueError(f"{folder / KEYWORDS}: wanted an object, got {type(keywords).__name__}")
    return read_raw(folder / FILE), keywords


def check_backbone(**numbers: Any) -> None:
    """Check width and depth of a backbone, which may come out of someone else's file.

    Raises:
        ValueError: no whole number above 0, or above what backbones have.
    """
    for name, most in (("width", MAX_NUMBER), ("depth", MAX_DEPTH)):
        if type(numbers[name]) is not int or not 0 < numbers[name] <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most:,}; got {printable(numbers[name], 40)}")


def decode(data: Tensor, layers: list[Layer], bits: int, width: int, head_bits: int) -> tuple[State, str, int]:
    """Cut the bytes of a file into our tensors.

    Returns:
        The tensors, the kind of head and the number of its classes.

    Raises:
        ValueError: another number of bytes.
    """
    one_of("bits", bits, BITS)
    one_of("head_bits", head_bits, (1, 32))
    body = sum(packed_size(layer.count, bits) + 8 for layer in layers)
    rest = data.numel() - body
    classes = {32: _classes(rest, 4 * (width + 1)), 1: _classes(rest - 8, width / 8)}
    count, other = classes[head_bits], classes[33 - head_bits]
    if not count:
        hint = f", but one of {other} classes with head_bits={33 - head_bits}" if other else ""
        raise ValueError(
            f"the file has {data.numel():,} bytes, {len(layers)} layers of these sizes take {body:,}: the other "
            f"{rest:,} are no head of {width} channels with {head_bits} bits a weight{hint}"
        )
    state: State = {}
    for layer in layers:
        data = _take_layer(state, data, layer, bits)
    if head_bits == 1:
        _take_layer(state, data, Layer("head", count * width), 1)
        return state, "bi_linear_packed", count
    numbers = _floats(data)
    state["head.weight"], state["head.bias"] = numbers[: count * width].view(count, width), numbers[count * width :]
    return state, "linear", count


def take_head(state: State) -> tuple[State, str, int]:
    """Take the head out of ``state``: its tensors, its kind (of 1 bit where it has no bias), the number of classes."""
    head = {name: state.pop(name) for name in ("head.weight", "head.bias") if name in state}
    weight = head.get("head.weight")
    return (
        head,
        "linear" if "head.bias" in head or weight is None else "bi_linear",
        0 if weight is None else len(weight),
    )


def write(model: nn.Module, folder: Path, layers: list[Layer], keywords: Mapping[str, Any]) -> Path:
    """Write the bytes of ``model`` as the official code does, and the keywords that reading them needs."""
    kind = baked_head_kind(model)
    if kind not in ("linear", "bi_linear_packed"):
        raise ValueError(f"these files hold a linear head or one of 1 bit, got {kind}")
    bits = keywords["bits"]
    for layer in layers:
        if layer.count * bits % 8:
            raise ValueError(
                f"{layer.name} has {layer.count} weights of {bits} bits, which fill no whole bytes: the official code "
                "would lose the last ones; use save_adapter"
            )
    state = baked_state_dict(model)
    names = [f"{layer.name}.{part}" for layer in layers for part in ("codes", "mean", "std")]
    if kind == "linear":
        names += ["head.weight", "head.bias"]
    else:
        names += ["head.codes", "head.mean", "head.std"]
    folder.mkdir(parents=True, exist_ok=True)
    facts = {**keywords, "head_bits": 32 if kind == "linear" else 1}
    contents = b"".join(_bytes(state[name]) for name in names)
    write_together(folder, {FILE: contents, KEYWORDS: (json.dumps(facts, indent=2) + "\n").encode()})
    return folder


def only_method(model: nn.Module, kind: type[Any], target: str) -> Any:
    """Return the one method of ``model``, of class ``kind`` in all its blocks; ValueError where there is another."""
    tuning = record.find(model)
    methods: list[Any] = list(tuning.methods) if tuning else []
    if len(methods) != 1 or not isinstance(methods[0], kind) or methods[0].blocks != "all":
        got = ", ".join(map(repr, methods)) or "nothing"
        raise ValueError(
            f"target {target} wants a model with {kind.__name__} in all blocks and nothing else, got {got}"
        )
    return methods[0]


def _classes(size: float, per_class: float) -> int:
    return int(size // per_class) if size > 0 and size % per_class == 0 else 0


def _take_layer(state: State, data: Tensor, layer: Layer, bits: int) -> Tensor:
    """Put the layer in front of ``data`` into ``state`` and return what is behind it."""
    codes, numbers, rest = data.tensor_split([size := packed_size(layer.count, bits), size + 8])
    mean, std = _floats(numbers)
    state |= {f"{layer.name}.codes": codes.clone(), f"{layer.name}.mean": mean, f"{layer.name}.std": std}
    return rest


def _floats(data: Tensor) -> Tensor:
    return data.clone().view(torch.float32)  # the copy is aligned


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.cpu().contiguous()
    return (tensor if tensor.dtype == torch.uint8 else tensor.float()).numpy().tobytes()
