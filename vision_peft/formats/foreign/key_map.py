"""Which tensors of a foreign file became which of ours: it is read with tensors that remember where they are from.

No reader has to say what it maps: whatever a reader does to a tensor (views, transposes, concatenations), the result
carries the names of all tensors it was made of.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from vision_peft.formats.foreign.read import Foreign, open_foreign
from vision_peft.formats.foreign.tensors import State


class _Traced(Tensor):
    sources: tuple[str, ...] = ()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_function__(func, types, args, kwargs or {})
        given = [value for value in tree_iter((args, kwargs)) if isinstance(value, _Traced)]
        sources = [name for value in given for name in value.sources]
        for value in tree_iter(made):
            if isinstance(value, _Traced):
                value.sources = tuple(dict.fromkeys((*value.sources, *sources)))
        return made


@dataclass(frozen=True)
class KeyMap:
    """What became of the tensors of a file."""

    made_of: Mapping[str, tuple[str, ...]]  # our name -> names in the file
    dropped: tuple[str, ...]  # names in the file that nothing is made of

    def lines(self) -> list[str]:
        """List the map as `theirs -> ours`, one line for all tensors whose names differ in their numbers only.

        Tensors that keep their names are counted in a line of their own.
        """
        groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
        kept = [ours for ours, theirs in self.made_of.items() if theirs == (ours,)]
        for ours, theirs in self.made_of.items():
            if theirs != (ours,):
                pair = " + ".join(theirs) or "(no tensor)", ours
                groups.setdefault((_without_numbers(pair[0]), _without_numbers(pair[1])), []).append(pair)
        lines = [
            f"{pairs[0][0]} -> {pairs[0][1]}" if len(pairs) == 1 else f"{theirs} -> {ours} ({len(pairs)} times)"
            for (theirs, ours), pairs in groups.items()
        ]
        return [*lines, f"{len(kept)} tensors keep their names"] if kept else lines


def read_mapped(path_or_state: str | Path | Mapping[str, Any], source: str, **keywords: Any) -> tuple[Foreign, KeyMap]:
    """Read as ``read_foreign`` does, and say which tensors became which."""
    opened = open_foreign(path_or_state, source, keywords)
    traced: State = {}
    for name, tensor in opened.tensors.items():
        own = tensor.as_subclass(_Traced)
        own.sources = (name,)
        traced[name] = own
    found = opened.read(traced)
    states = {**(found.backbone or {}), **found.tuned}
    made_of = {name: _sources(tensor) for name, tensor in states.items()}
    used = {name for names in made_of.values() for name in names}
    dropped = tuple(name for name in opened.tensors if name not in used)
    backbone = None if found.backbone is None else _plain(found.backbone)
    return dataclasses.replace(found, backbone=backbone, tuned=_plain(found.tuned)), KeyMap(made_of, dropped)


def _sources(tensor: Tensor) -> tuple[str, ...]:
    return tensor.sources if isinstance(tensor, _Traced) else ()


def _plain(state: State) -> State:
    with torch._C.DisableTorchFunctionSubclass():
        return {name: tensor.as_subclass(Tensor) for name, tensor in state.items()}


def _without_numbers(names: str) -> str:
    return re.sub(r"(?<![A-Za-z_])\d+(?=\.)", "*", names)
