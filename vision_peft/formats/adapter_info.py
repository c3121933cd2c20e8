"""What an adapter folder says of itself: its fields, how they are checked, and the checksum of its tensors."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from vision_peft.calibration import COLDEST, HOTTEST
from vision_peft.formats.backbone_record import backbone_problems, full_name
from vision_peft.formats.input_record import input_problems, with_todays_words
from vision_peft.methods import METHODS
from vision_peft.printable import LONGEST_LINE, name_some, printable
from vision_peft.strict_json import parse_json
from vision_peft.suggest import did_you_mean
from vision_peft.tuning.method import Method

MAX_TEXT = 16 * 2**20  # bytes of a description; ImageNet-21k's class names take one
MAX_METHODS = 32
# 1: the description is in adapter.json only, its checksum that of the tensors' file; 2: no temperature; 3: no task
FORMAT_VERSION = 4
WITHOUT_TASK = 3  # which is written for one of several classes still, so that earlier versions read it


@dataclass(frozen=True)
class AdapterInfo:
    """The description of an adapter."""

    format_version: int
    methods: list[dict[str, Any]]  # {"name", "fields"} in attach order
    head: str  # kind of head
    num_classes: int
    backbone: dict[str, Any]  # {"name", "license", "architecture", "arguments", "quantized"}, see backbone_record
    fingerprint: str  # sha256 of frozen block weights, see tuning.record.fingerprint
    tensors_sha256: str  # see ``tensors_sha256``; format 1: of the bytes of adapter.safetensors
    class_names: list[str] | None
    input: dict[str, Any] | None  # mean, std, size (pixels), interpolation, ... of the images it was trained on
    counts: dict[str, int]
    toolkit_version: str
    temperature: float | None = None  # of the probabilities, fitted on val; None: val was not there, or formats 1 and 2
    task: dict[str, Any] | None = None  # what is answered, {"kind": "regression", ...}; None: one of the classes

    @property
    def license(self) -> str | None:
        """The licence of the backbone's weights where timm knows it, ``apache-2.0`` for instance."""
        return self.backbone.get("license")

    @property
    def backbone_name(self) -> str:
        """The name of the backbone as one string, which ``create_backbone`` takes."""
        return full_name(self.backbone)


_TYPES: dict[str, Any] = {
    "format_version": int,
    "methods": list,
    "head": str,
    "num_classes": int,
    "backbone": dict,
    "fingerprint": str,
    "tensors_sha256": str,
    "class_names": list | None,
    "input": dict | None,
    "counts": dict,
    "toolkit_version": str,
    "temperature": float | int | None,
    "task": dict | None,
}
_ADDED = ("temperature", "task")  # that earlier formats lack


def to_text(info: AdapterInfo) -> str:
    """JSON of ``info``.

    Raises:
        ValueError: a value that JSON cannot hold.
    """
    values = dataclasses.asdict(info)
    if info.task is None:
        del values["task"]
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_object(text: bytes | str, where: str) -> dict[str, Any]:
    """Parse the JSON object in ``text``, unchecked; messages name ``where`` it is.

    Raises:
        ValueError: not JSON, not an object, or more than ``MAX_TEXT`` of it.
    """
    check_length(len(text), where)
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: wanted an object, got {type(values).__name__}")
    return values


def check_length(length: int, where: str) -> None:
    """Raise ValueError where a description is longer than any true one."""
    if length > MAX_TEXT:
        raise ValueError(f"{where} has {length:,} bytes: a description of an adapter has at most {MAX_TEXT:,}")


def check(values: dict[str, Any], where: str) -> AdapterInfo:
    """``values`` as an AdapterInfo, checked field by field.

    Raises:
        ValueError: fields are missing, unknown or of another type (all are named), or a newer format.
    """
    if isinstance(values.get("format_version"), int) and values["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{where} has format version {values['format_version']}, vision_peft {version('vision_peft')} reads up to "
            f"{FORMAT_VERSION}: upgrade vision_peft"
        )
    problems = []
    for field, wanted in _TYPES.items():
        if field not in values:
            problems += [] if field in _ADDED else [f"{field} is missing"]
        elif not isinstance(values[field], wanted) or isinstance(values[field], bool):
            problems.append(f"{field} has type {type(values[field]).__name__}")
    problems += [f"{field} is unknown" for field in values if field not in _TYPES]
    if not problems:
        names = values["class_names"] or []
        problems += [f"class_names: {str(name)[:40]!r} is not text" for name in names if not isinstance(name, str)]
        problems += _impossible(values) + input_problems(values["input"] or {}) + backbone_problems(values["backbone"])
    if problems:
        raise ValueError(f"{where}: {printable('; '.join(problems), LONGEST_LINE)}")
    if values["input"]:
        values["input"] = with_todays_words(values["input"])
    return AdapterInfo(**values)


def _impossible(values: dict[str, Any]) -> list[str]:
    problems = [
        f"{field} is {values[field]}, wanted at least {lowest}"
        for field, lowest in (("format_version", 1), ("num_classes", 0))
        if values[field] < lowest
    ]
    if len(values["methods"]) > MAX_METHODS:
        problems.append(f"methods lists {len(values['methods'])} of them, at most {MAX_METHODS} are read")
    names = values["class_names"]
    if names is not None and not values.get("task") and len(names) != values["num_classes"]:
        problems.append(f"class_names has {len(names)} names, num_classes is {values['num_classes']}")
    temperature = values.get("temperature")
    if temperature is not None and not COLDEST <= temperature <= HOTTEST:
        problems.append(f"temperature is {printable(temperature, 40)}, wanted {COLDEST:g} to {HOTTEST:g}, or null")
    problems += [
        f"counts.{name} is {printable(count, 40)}, wanted a whole number from 0"
        for name, count in values["counts"].items()
        if type(count) is not int or count < 0
    ]
    return problems


def recorded_method(entry: Any, where: str) -> Method:
    """Build the method of one entry of ``AdapterInfo.methods``.

    Raises:
        ValueError: an unknown method or field, or an impossible value.
    """
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("name"), str)
        or not isinstance(entry.get("fields"), dict)
    ):
        raise ValueError(f'{where}: wanted methods as {{"name": ..., "fields": {{...}}}}, got {printable(repr(entry))}')
    name, fields = entry["name"], entry["fields"]
    if name not in METHODS:
        hint = did_you_mean(name, METHODS)
        raise ValueError(
            f"{where}: unknown method {name!r}{hint}: this vision_peft has {', '.join(METHODS)}; register your own "
            "first, with vp.register(MyMethod)"
        )
    fields = METHODS[name].read_fields(fields)
    known = {field.name for field in dataclasses.fields(METHODS[name])}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"{where}: {name} has no field {name_some(unknown)}; it has {', '.join(sorted(known))}")
    try:
        return METHODS[name](**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name}: {printable(error, LONGEST_LINE)}") from None


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, in order of names.

    It is of the tensors and not of a file, so that the file may hold it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
