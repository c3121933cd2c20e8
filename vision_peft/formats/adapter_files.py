"""Read the two files of an adapter folder: ``adapter.safetensors`` and ``adapter.json``.

Both are plain data: nothing in a folder from someone else is executed, and sizes are checked before they become memory.
"""

import hashlib
import logging
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vision_peft.formats.adapter_info import MAX_TEXT, AdapterInfo, check, read_object, tensors_sha256
from vision_peft.safe_files import check_regular, read_file

TENSORS, INFO = "adapter.safetensors", "adapter.json"
METADATA = "adapter"  # key of the description in the metadata of the tensors

_log = logging.getLogger(__name__)


def read_adapter_info(folder: str | Path) -> AdapterInfo:
    """Read and check the description of an adapter field by field.

    It is that of ``adapter.json``, or where this file is missing or belongs to other tensors (their save was killed
    between the two files) the one in the metadata of ``adapter.safetensors``, with a logged warning.

    Raises:
        FileNotFoundError: the folder or one of its two files is absent.
        ValueError: not JSON, a field missing or of another type, or a newer format.
    """
    return read_info(Path(folder))[0]


def read_info(folder: Path) -> tuple[AdapterInfo, str]:
    """Read the description, and say where it stands for messages; raises as ``read_adapter_info`` does."""
    path, inner = folder / INFO, f"the metadata of {folder / TENSORS}"
    for name in (INFO, TENSORS):
        check_regular(folder / name, follow=leads_to_cache(folder / name))
    absent = [name for name in (INFO, TENSORS) if not (folder / name).is_file()]
    text = None if TENSORS in absent else _metadata(folder / TENSORS)
    if absent and (text is None or TENSORS in absent):
        raise FileNotFoundError(
            f"no adapter at {folder}: wanted the files {INFO} and {TENSORS}, {absent[0]} is missing"
        )
    values = None if absent else read_object(read_file(path, MAX_TEXT), str(path))
    if text is not None:
        own = read_object(text, inner)
        belongs = own.get("tensors_sha256")
        if values is None or (isinstance(values.get("tensors_sha256"), str) and values["tensors_sha256"] != belongs):
            _log.warning(
                "%s %s: reading the description in the metadata of %s instead",
                path,
                "is missing" if values is None else "describes other tensors; perhaps a save was interrupted",
                TENSORS,
            )
            return check(own, inner), inner
    return check(values or {}, str(path)), str(path)


def leads_to_cache(path: Path) -> bool:
    """Whether `path` is a link of the hub's cache, whose folders `snapshots/COMMIT` lead to files in `blobs`."""
    blobs = path.resolve().parent
    return path.parent.parent.name == "snapshots" and blobs == path.parent.parent.resolve().parent / "blobs"


def _metadata(path: Path) -> str | None:
    """Read the description from the metadata of the tensors; None if there is none or the file is not readable."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(METADATA)
    except SafetensorError:  # its reader says what is wrong with it
        return None


def read_tensors(folder: Path, info: AdapterInfo, where: str) -> dict[str, Tensor]:
    """Read the tensors that ``info`` describes; ``where`` it stands is for messages.

    Raises:
        ValueError: damaged tensors, others than described, or complex numbers.
    """
    data = (folder / TENSORS).read_bytes()
    other = f"{folder / TENSORS} does not hold the tensors that {where} describes (sha256 differs): damaged or mixed up"
    of_file = info.format_version < 2
    if of_file and hashlib.sha256(data).hexdigest() != info.tensors_sha256:
        raise ValueError(other)
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(f"{folder / TENSORS} cannot be read, it is damaged: {error}") from None
    if not of_file and tensors_sha256(state) != info.tensors_sha256:
        raise ValueError(other)
    if unreal := [name for name, tensor in state.items() if tensor.is_complex()]:
        raise ValueError(f"{folder / TENSORS}: {unreal[0]} holds complex numbers, wanted real ones")
    return state


def check_sizes(info: AdapterInfo, state: dict[str, Tensor], where: str) -> None:
    """Raise ValueError where the description names a size beyond the numbers that are stored."""
    # Every channel, token or class has tensors; sizes beyond what is stored would only take memory.
    stored = sum(tensor.numel() for tensor in state.values())
    sizes = {"num_classes": info.num_classes}
    for entry in info.methods:
        fields = entry.get("fields", {}) if isinstance(entry, dict) else {}
        for field, value in fields.items():
            numbers = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]
            sizes[f"{entry['name']}.{field}"] = max(numbers, default=0)
    for name, size in sizes.items():
        if size > stored:
            raise ValueError(f"{where}: {name} is {size}, but {TENSORS} holds only {stored} numbers")
