"""Reading tuned models that other code saved, and building the timm model they describe."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vision_peft.backbones.checkpoints import read_plain
from vision_peft.formats.foreign import build_model
from vision_peft.formats.foreign.tensors import State
from vision_peft.suggest import did_you_mean
from vision_peft.tuning.attach import attach_for_loading, replace_head
from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.method import Method
from vision_peft.tuning.state import load_tuned

_HEAD_BIASES = ("head.bias", "head.1.bias", "head.fc.bias", "head.classifier.bias", "head.classifier.1.bias")


_TENSOR_FILES = (".pth", ".pt", ".safetensors")  # of sources whose own files are bytes without a header


@dataclass(frozen=True, repr=False)
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
    head_update: State = field(default_factory=dict)  # to add to the head that the backbone came with
    classes: int | None = None  # of the head, where no bias tells
    on_some_blocks: bool = False  # the method may be on some blocks only, which a model at hand tells by its depth

    def __repr__(self) -> str:
        methods = ", ".join(map(repr, self.methods)) or "no method"
        tuned = f"{len(self.tuned)} tuned tensors of {_count(self.tuned):,} numbers"
        backbone = "no backbone" if self.backbone is None else f"backbone of {_describe_backbone(self.backbone)}"
        return f"Foreign({methods}; {tuned}; {self.head} head of {self.num_classes} classes; {backbone})"

    @property
    def methods(self) -> tuple[Method, ...]:
        """Give everything to attach, in order."""
        return (() if self.method is None else (self.method,)) + self.beside

    def methods_on(self, model: nn.Module) -> tuple[Method, ...]:
        """Give everything to attach to ``model``, the method on the blocks of it that there are tensors of."""
        if not (self.on_some_blocks and isinstance(self.method, BlockMethod) and has_blocks(model)):
            return self.methods
        names, every = {module: name for name, module in model.named_modules()}, blocks(model)
        starts = tuple(f"{names[block]}." for block in every)
        found = tuple(n for n, start in enumerate(starts) if any(name.startswith(start) for name in self.tuned))
        whole = not found or len(found) == len(every)
        return (replace(self.method, blocks="all" if whole else found), *self.beside)

    def put_on(self, model: nn.Module) -> nn.Module:
        """Attach all methods to ``model``, the plain backbone that the file was trained on, and load the tensors.

        Raises:
            ValueError: the tensors do not fit; or the file updates the head of the backbone and ``model`` has not one
                of its size, in which case nothing is changed.
        """
        heads = dict(model.named_parameters())
        for name, update in self.head_update.items():
            got = tuple(heads[name].shape) if name in heads else "none"
            if got != tuple(update.shape):
                raise ValueError(
                    f"this file updates the head that its backbone came with: wanted a model with {name} of shape "
                    f"{tuple(update.shape)}, got {got}"
                )
        if self.num_classes:
            replace_head(model, self.head, self.num_classes)
        for method in self.methods_on(model):
            attach_for_loading(model, method)
        load_tuned(model, self.tuned, head="load" if self.num_classes else "keep")
        with torch.no_grad():
            for name, update in self.head_update.items():
                model.get_parameter(name).add_(update)
        return model

    @property
    def num_classes(self) -> int:
        """Give the classes of the head in the file, 0 without one."""
        if self.classes is not None:
            return self.classes
        biases = [name for name in _HEAD_BIASES if name in self.tuned]
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
            attach_for_loading(model, method)
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
    return open_foreign(path_or_state, source, keywords).read()


@dataclass(frozen=True)
class Opened:
    """The tensors of a file by their official names, and what reads them."""

    reader: Any  # a module of this folder
    tensors: State
    keywords: Mapping[str, Any]
    source: str

    def read(self, tensors: State | None = None) -> Foreign:
        """Map the tensors, or others of the same names; ValueError where one is missing or nothing explains it."""
        try:
            return self.reader.read(self.tensors if tensors is None else tensors, **self.keywords)
        except KeyError as error:
            raise ValueError(f"not a complete {self.source} file: {error.args[0]} is missing") from None


def open_foreign(path_or_state: str | Path | Mapping[str, Any], source: str, keywords: Mapping[str, Any]) -> Opened:
    """Take the tensors out of their file, container and prefix; arguments and errors are those of ``read_foreign``."""
    module = _module("source", source, having="read")
    data: Any = path_or_state
    if not isinstance(data, Mapping):
        read_folder, read_raw = (vars(module).get(name) for name in ("read_folder", "read_raw"))
        if read_folder is not None and Path(data).is_dir():
            data, found = read_folder(Path(data))
            keywords = {**found, **keywords}
        elif read_raw is not None and Path(data).suffix not in _TENSOR_FILES:
            data = read_raw(Path(data))
        else:
            data = read_tensors(Path(data))
    _check_keywords(module.read, source, keywords)
    data = vars(module).get("unpack", lambda found: found)(data)
    for container in ("model", "state_dict"):
        if isinstance(data.get(container), Mapping):
            data = data[container]
    tensors = {
        name.removeprefix("module."): torch.as_tensor(value)
        for name, value in data.items()
        if isinstance(value, Tensor | np.ndarray)
    }
    return Opened(module, tensors, keywords, source)


def write_foreign(model: nn.Module, folder: str | Path, target: str = "hf_peft") -> Path:
    """Write what ``model`` learned to ``folder`` in the format of ``target``, so that its own code loads it.

    Args:
        model: a model with a method attached that ``target`` knows.
        folder: made where it is absent.
        target: ``hf_peft``, ``bi_adaptformer`` or ``bi_lora``.

    Returns:
        The folder.

    Raises:
        ValueError: unknown target, or a model that it cannot express, with the reason.
    """
    return _module("target", target, having="write").write(model, Path(folder))


def list_files(target: str) -> list[str]:
    """List the files that ``write_foreign`` writes for ``target``.

    Raises:
        ValueError: unknown target.
    """
    return list(_module("target", target, having="write").FILES)


def read_tensors(path: Path) -> Mapping[str, Any]:
    """Read the tensors of a checkpoint file by name, with no code in it run (see ``checkpoints.read_plain``).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one that wants to run code, or no mapping in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    data = read_plain(path)
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds a {type(data).__name__}, wanted a mapping of names to tensors")
    return data


def _describe_backbone(state: State) -> str:
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    embed = next((tuple(t.shape) for name, t in state.items() if name.endswith("patch_embed.proj.weight")), None)
    patches = f" of width {embed[0]}, patches {' x '.join(map(str, embed[2:]))}" if embed else ""
    return f"{depth} blocks{patches}, {_count(state):,} numbers"


def _count(state: State) -> int:
    return sum(tensor.numel() for tensor in state.values())


def list_sources() -> list[str]:
    """List what ``read_foreign`` takes as ``source``."""
    return sorted(_modules("read"))


def _module(what: str, name: str, having: str) -> Any:
    known = _modules(having)
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}{did_you_mean(name, known)}: known are {', '.join(sorted(known))}")
    return known[name]


def _modules(having: str) -> dict[str, Any]:
    package = importlib.import_module("vision_peft.formats.foreign")
    modules = {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if info.name != "read"
    }
    return {name: module for name, module in modules.items() if callable(vars(module).get(having))}


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
