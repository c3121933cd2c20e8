"""Backbone files that hold torch tensors by name: ``.safetensors``, ``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.tar``.

A file never runs code: torch files are read with ``weights_only=True``. Google's ``.npz`` has its own file, ``npz.py``.
"""

import argparse
import importlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")
# timm's order, then VideoMAE's of DeepSpeed and DINO's
CONTAINER_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "teacher")


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
            f"{', '.join(CONTAINER_KEYS)}; got the entries {', '.join(map(str, list(content)[:8])) or '(none)'}."
        )
    return clean_state_dict(state)


def check_stored(content: Any, path: Path) -> None:
    """Raise ValueError where a tensor claims more numbers than the file holds: a view repeats a few of them at will."""
    if isinstance(content, Mapping):
        for inner in content.values():
            check_stored(inner, path)
    elif isinstance(content, Tensor) and content.numel() * content.element_size() > path.stat().st_size:
        raise ValueError(f"{path} claims a tensor of shape {tuple(content.shape)}, larger than the whole file.")


def read_plain(path: Path) -> Any:
    """Read what a safetensors or torch file holds, with no code in it run.

    Besides tensors and plain values exactly the types are allowed that published files hold: ``argparse.Namespace``
    (AdaptFormer, MAE) and numpy arrays and numbers (VPT; a best accuracy, say).

    Raises:
        ValueError: truncated or other content, code to run, or a tensor that claims more numbers than the file holds.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except (PermissionError, MemoryError):
        raise
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}).") from error
    except Exception as error:  # a damaged pickle raises whatever its opcodes stumble over, with or without words
        raise ValueError(_describe_refusal(path, error)) from error
    check_stored(content, path)
    return content


def _load_torch(path: Path) -> Any:
    # numpy 1 pickled its arrays under numpy.core, numpy 2 under numpy._core; both names mean these two functions
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    builders = [
        (getattr(multiarray, function), f"numpy.{core}.multiarray.{function}")
        for function in ("_reconstruct", "scalar")
        for core in ("core", "_core")
    ]
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "f2", "i4", "i8", "u1", "?")]
    with torch.serialization.safe_globals([argparse.Namespace, np.ndarray, np.dtype, *kinds, *builders]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _describe_refusal(path: Path, error: Exception) -> str:
    code = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and code is not None:
        return (
            f"{path} was refused: besides tensors it wants to load {code[1]}, which can run any code. "
            "Where you trust it, save its state_dict() alone, best as .safetensors."
        )
    if isinstance(error, pickle.UnpicklingError):
        return f"{path} is damaged or not a torch file."
    if "TorchScript" in str(error):
        return (
            f"{path} is a TorchScript archive (OpenAI publishes CLIP as such), which can hold code. Where you "
            "trust it, save its tensors and give that file: "
            f"torch.save(torch.jit.load({str(path)!r}, map_location='cpu').state_dict(), 'clip.pth')"
        )
    return f"{path} is truncated or not a torch file."
