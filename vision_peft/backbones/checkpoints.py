"""Backbone files that hold torch tensors by name: ``.safetensors``, ``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.tar``.

A file never runs code: torch files are read with ``weights_only=True``. Google's ``.npz`` has its own file, ``npz.py``.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from vision_peft.printable import name_some
from vision_peft.torch_files import load_torch_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")
# timm's order, then VideoMAE's of DeepSpeed, DINO's, and V-JEPA 2's, of which the slow copy is the published encoder
CONTAINER_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "teacher", "target_encoder")
CONTAINER_KEYS += ("encoder",)


def check_file(path: Path) -> Path:
    """Accept an existing file with the ending of a known format and return it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, or another ending.
    """
    if path.is_dir():
        raise ValueError(f"Checkpoint {path} is a folder; name the weight file in it ({', '.join(SUFFIXES)}).")
    if not path.is_file():
        raise FileNotFoundError(f"Checkpoint {path} does not exist (looked for it from {Path.cwd()}).")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"Checkpoint {path} ends in {path.suffix!r}; wanted one of {', '.join(SUFFIXES)}.")
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a safetensors or torch file, out of its container and without DDP or compile prefixes.

    Raises:
        ValueError: truncated or other content, code to run, or no tensors in it.
    """
    content: Any = read_plain(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, wanted a state dict (tensors by name).")
    key = next((key for key in CONTAINER_KEYS if isinstance(content.get(key), dict)), None)
    state: dict[str, Any] = content if key is None else content[key]
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} holds no state dict: wanted tensors by name, at the top or under one of "
            f"{', '.join(CONTAINER_KEYS)}; got the entries {name_some(content, 8) or '(none)'}."
        )
    state = clean_state_dict(state)
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}


def read_plain(path: Path) -> Any:
    """Read what a safetensors or torch file holds, with no code in it run.

    Besides tensors and plain values exactly the types are allowed that published files hold: ``argparse.Namespace``
    (AdaptFormer, MAE) and numpy arrays and numbers (VPT; a best accuracy, say).

    Raises:
        ValueError: truncated or other content, code to run, or a tensor that claims more numbers than the file holds.
    """
    try:
        return load_file(path) if path.suffix == ".safetensors" else load_torch_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}).") from error
