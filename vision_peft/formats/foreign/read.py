"""Reading tuned models that other code saved, and building the timm model they describe."""

import argparse
import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from vision_peft.backbones.checkpoints import check_stored
from vision_peft.formats.foreign import build_model
from vision_peft.formats.foreign.tensors import State
from vision_peft.suggest import did_you_mean
from vision_peft.tuning.attach import attach, replace_head
from vision_peft.tuning.method import Method
from vision_peft.tuning.state import load_tuned


@dataclass(frozen=True)
class Foreign:
    """A tuned model of other code in our terms."""

    backbone: State | None  # timm-keyed weights, None where the file holds none
    method: Method | None
    tuned: State  # for load_tuned; includes the head where the file has one
    head: str = "linear"  # kind of head, see tuning.heads
    beside: tuple[Method, ...] = ()  # further methods of the official code, attached after ``method``
    clips: str = "none"  # how the backbone sees clips: see build_model.CLIPS
    num_frames: int | None = None  # of a clip, where the tensors tell
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm's VisionTransformer, which no tensor tells

    @property
    def methods(self) -> tuple[Method, ...]:
        """Everything to attach, in order."""
        return (() if self.method is None else (self.method,)) + self.beside

    @property
    def num_classes(self) -> int:
        """Classes of the head in the file, 0 without one."""
        biases = [name for name in ("head.bias", "head.1.bias", "head.fc.bias") if name in self.tuned]
        return self.tuned[biases[0]].shape[0] if biases else 0

    def build(
        self, num_heads: int, img_size: int | tuple[int, int] | None = None, num_frames: int | None = None
    ) -> nn.Module:
        """Build the timm model that the tensors describe, with methods attached and tensors loaded, in eval mode.

        Args:
            num_heads: attention heads; the tensors do not tell.
            img_size: pixels; needed where the file holds no positions, or not those of a square image.
            num_frames: frames of a clip; needed for video models unless the tensors tell them.

        Raises:
            ValueError: the file holds no backbone, or its tensors do not fit together or what is given here.
        """
        if self.backbone is None:
            raise ValueError("this file holds no backbone: create one with create_backbone, attach and load_tuned")
        if None not in (num_frames, self.num_frames) and num_frames != self.num_frames:
            raise ValueError(f"this file was tuned on {self.num_frames} frames a clip; got num_frames={num_frames}")
        model = build_model.build(
            self.backbone,
            clips=self.clips,
            arguments=self.arguments,
            num_classes=self.num_classes,
            num_heads=num_heads,
            img_size=img_size,
            num_frames=num_frames or self.num_frames,
        )
        if self.head != "linear":
            replace_head(model, self.head, self.num_classes)
        for method in self.methods:
            attach(model, method)
        load_tuned(model, self.tuned, head="load" if self.num_classes else "keep")
        return model.eval()


def read_foreign(path_or_state: str | Path | Mapping[str, Any], source: str, **keywords: Any) -> Foreign:
    """Read a file (or its tensors) that the official code of ``source`` saved.

    Args:
        path_or_state: a .pth/.pt/.bin (read without running code in it) or .safetensors file, the loaded mapping, or
            the folder where the source saves one (``hf_peft``).
        source: one of the files of this folder, for instance ``adaptformer`` or ``vpt``.
        **keywords: what such a file cannot tell (see the source's ``read``), for instance ``scale=0.1``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown source, a keyword that it does not take or needs, a file that is not readable as plain
            tensors, or keys that are not of this source.
    """
    module = _module("source", source, having="read")
    data: Any = path_or_state
    if not isinstance(data, Mapping):
        read_folder = vars(module).get("read_folder")
        if read_folder is not None and Path(data).is_dir():
            data, found = read_folder(Path(data))
            keywords = {**found, **keywords}
        else:
            data = read_tensors(Path(data))
    _check_keywords(module.read, source, keywords)
    for container in ("model", "state_dict"):
        if isinstance(data.get(container), Mapping):
            data = data[container]
    tensors = {
        name.removeprefix("module."): torch.as_tensor(value)
        for name, value in data.items()
        if isinstance(value, Tensor | np.ndarray)
    }
    try:
        return module.read(tensors, **keywords)
    except KeyError as error:
        raise ValueError(f"not a complete {source} file: {error.args[0]} is missing") from None


def write_foreign(model: nn.Module, folder: str | Path, target: str = "hf_peft") -> Path:
    """Write what ``model`` learned to ``folder`` in the format of ``target``, so that its own code loads it.

    Args:
        model: a model with a method attached that ``target`` knows.
        folder: made where it is absent.
        target: ``hf_peft``.

    Returns:
        The folder.

    Raises:
        ValueError: unknown target, or a model that it cannot express, with the reason.
    """
    return _module("target", target, having="write").write(model, Path(folder))


def read_tensors(path: Path) -> Mapping[str, Any]:
    """Contents of a checkpoint file, with no code in it run.

    Besides tensors, exactly the types are allowed that the official files hold: ``argparse.Namespace`` (AdaptFormer,
    MAE) and numpy arrays (VPT).
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    numpy_types = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "f2", "i4", "i8", "u1", "?"))]
    allowed = [argparse.Namespace, *numpy_types, *_numpy_builders()]
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(allowed):
            data = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes stumble over, with or without words
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {reason}") from None
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds a {type(data).__name__}, wanted a mapping of names to tensors")
    check_stored(data, path)
    return data


def _numpy_builders() -> list[Any]:
    # numpy 1 pickled its arrays under numpy.core, numpy 2 under numpy._core; both names mean these two functions.
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    found: list[Any] = []
    for function in ("_reconstruct", "scalar"):
        builder = getattr(multiarray, function)
        found += [(builder, f"numpy.core.multiarray.{function}"), (builder, f"numpy._core.multiarray.{function}")]
    return found


def _module(what: str, name: str, having: str) -> Any:
    package = importlib.import_module("vision_peft.formats.foreign")
    modules = {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if info.name != "read"
    }
    known = {name: module for name, module in modules.items() if callable(vars(module).get(having))}
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}{did_you_mean(name, known)}: known are {', '.join(sorted(known))}")
    return known[name]


def _check_keywords(read: Any, source: str, keywords: Mapping[str, Any]) -> None:
    """Raise ValueError where ``keywords`` of ``read_foreign`` are not those of the source's ``read``."""
    known = {name: p for name, p in inspect.signature(read).parameters.items() if p.kind is p.KEYWORD_ONLY}
    problems = []
    for name in keywords:
        if name not in known:
            hint = did_you_mean(name, known)
            problems.append(f"{source} takes no keyword {name!r}{hint}: it takes {', '.join(known) or 'none'}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in keywords:
            meaning = re.search(rf"^\s+{name}: (.+)$", read.__doc__ or "", flags=re.MULTILINE)
            what = f" ({meaning[1].rstrip('.')})" if meaning else ""
            problems.append(
                f"{source} needs the keyword {name}{what}: read_foreign(file, {source!r}, {name}=...), for instance "
                f"{name}={'0.1' if parameter.annotation is float else '...'}"
            )
    if problems:
        raise ValueError("; ".join(problems))
