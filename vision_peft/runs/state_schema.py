"""What a state may hold, checked entry by entry: it may come from someone else, and is otherwise met far inside."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from vision_peft.fields import describe, fits
from vision_peft.printable import printable

MAX_DEPTH = 10
LARGEST = 2**63
MAX_TEXT = 10**6  # letters
_TABLES = ("tuned", "average", "best", "moments")
_STARTED = {"commit": str | None, "versions": dict, "precision": str, "device": str, "world_size": int}
_RESUMED = {**_STARTED, "weights": str | None, "update": int}
_WATCHED = ("val", "test")


def list_problems(entries: Mapping[str, Any], kinds: Mapping[str, Any], phases: int, metric: str = "top1") -> list[str]:
    """Describe what in a state is of another type than what is written there.

    Args:
        entries: of the state; `progress` and those of the tensors are there.
        kinds: annotations of the fields of the progress.
        phases: that the run has.
        metric: the figure that chooses epochs.
    """
    progress = entries["progress"]
    found = [f"progress.{name} {text}" for name, value in progress.items() if (text := _problem(value, kinds[name]))]
    if not found and progress["phase"] >= phases:
        found.append(f"progress.phase is {progress['phase']}, this run has {phases}")
    if not found:
        found += _list_wrong_records(progress, metric)
    tables = [name for name in _TABLES if name in entries and not (name == "average" and entries[name] is None)]
    found += [f"{name} {text}" for name in tables if (text := _table_problem(entries[name], name == "moments"))]
    scaler = entries["scaler"]
    if not (isinstance(scaler, dict) and all(type(each) in (int, float) for each in scaler.values())):
        found.append("scaler is not a table of numbers")
    return found + (list(_list_wrong_shards(entries["sharded"])) if "sharded" in entries else [])


def _problem(value: Any, kind: Any) -> str | None:
    if not fits(value, kind):
        return f"is {printable(repr(value), 60)}, wanted {describe(kind)}"
    if isinstance(value, int | float) and value < 0:
        return f"is {value}, wanted a number from 0"
    return _plain_problem(value)


def _plain_problem(value: Any) -> str | None:
    """Describe what is no plain value, or a container that is in two places: what is made of it would have no end."""
    waiting, seen = [(value, 0)], set[int]()
    while waiting:
        each, depth = waiting.pop()
        if isinstance(each, str):
            if len(each) > MAX_TEXT:
                return f"holds a text of {len(each):,} letters"
        elif isinstance(each, list | tuple | dict):
            if depth > MAX_DEPTH or id(each) in seen:
                return f"is nested more than {MAX_DEPTH} deep, or in itself"
            seen.update([id(each)] if each else [])
            if isinstance(each, dict) and not all(isinstance(key, str) for key in each):
                return "has a key that is not text"
            waiting += [(inner, depth + 1) for inner in (each.values() if isinstance(each, dict) else each)]
        elif not (each is None or isinstance(each, bool | int | float)):
            return f"holds a {type(each).__name__}"
        elif isinstance(each, float) and not math.isfinite(each):
            return f"holds {each}"
        elif isinstance(each, int) and not -LARGEST < each < LARGEST:
            return "holds a whole number of 2^63 or more"
    return None


def _list_wrong_records(progress: Mapping[str, Any], metric: str) -> Iterator[str]:
    """Find what is missing in the records of a progress whose fields are of the right types."""
    best = progress["best"]
    if best is not None:
        split = next((name for name in _WATCHED if f"{name}_{metric}" in best), _WATCHED[0])
        wanted = {"epoch": int, f"{split}_{metric}": float, f"{split}_loss": float}
        yield from _list_wrong_fields("progress.best", best, wanted, needed=wanted)
    if start := progress.get("start"):
        yield from _list_wrong_fields("progress.start", start, _STARTED, needed=_STARTED)
    for changes in progress.get("resumed_with", ()):
        yield from _list_wrong_fields("progress.resumed_with", changes, _RESUMED)


def _list_wrong_fields(
    where: str, record: Mapping[str, Any], kinds: Mapping[str, Any], needed: Mapping[str, Any] | None = None
) -> Iterator[str]:
    for name in needed or ():
        if name not in record:
            yield f"{where} has no {name}"
    for name, kind in kinds.items():
        if name in record and not fits(record[name], kind):
            yield f"{where}.{name} is {printable(repr(record[name]), 60)}, wanted {describe(kind)}"
    versions = record.get("versions")
    if isinstance(versions, dict) and not all(isinstance(text, str) for text in versions.values()):
        yield f"{where}.versions holds something that is not text"


def _table_problem(value: Any, numbers: bool = False) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return "is not a table of tensors by name"
    for name, each in value.items():
        if isinstance(each, Tensor):
            if each.is_complex() or each.is_quantized or each.is_sparse:
                return f"holds {printable(name)}, which is not a tensor of real numbers"
        elif not (numbers and isinstance(each, int | float)):
            return f"holds {printable(name)}, which is a {type(each).__name__}"
    return None


def _list_wrong_shards(known: Any) -> Iterator[str]:
    if not (isinstance(known, dict) and {"rest", "sizes"} <= known.keys()):
        yield "sharded does not say what is in the shards"
        return
    if _table_problem(known["rest"], numbers=True):
        yield "sharded.rest is not a table of numbers"
    if not (isinstance(known["sizes"], dict) and all(isinstance(name, str) for name in known["sizes"])):
        yield "sharded.sizes is not a table"
    elif not all(fits(size, list[int]) and type(size) is list for size in known["sizes"].values()):
        yield "sharded.sizes holds something that is not a size"
