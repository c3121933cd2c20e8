"""What a run was started with, and what was different when it was resumed: code, libraries, machine, precision."""

import functools
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vision_peft.distributed.device import Compute, describe_device

PACKAGES = ("vision_peft", "torch", "torchvision", "timm")


def describe_start(compute: Compute, weights: str | None = None) -> dict[str, Any]:
    """Return what a start of a run computes with, keyed as in a result row; `weights`: hash of the backbone's files."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "precision": compute.precision,
        "device": describe_device(compute.device),
        "world_size": compute.world_size,
        "weights": weights,
    }


def merge_starts(first: Mapping[str, Any], resumed: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a run computed with at last: the first start and what each resume changed, in order."""
    last = dict(first)
    for changes in resumed:
        last |= {**changes, "versions": {**last["versions"], **changes.get("versions", {})}}
    return last


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `now`, another start of the same run, that differ from `before`; of versions only those."""
    found = {key: value for key, value in now.items() if value != before.get(key, value)}
    if "versions" in found:
        known = before["versions"]
        found["versions"] = {name: text for name, text in now["versions"].items() if text != known.get(name)}
    return found


def describe_changes(before: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """Describe what `find_changes` found: "precision bf16 (was fp32), torch 2.15.0 (was 2.14.1)"."""
    old, new = ({**each, **each.get("versions", {})} for each in (before, changes))
    words = (f"{name.replace('_', ' ')} {new[name]} (was {old.get(name)})" for name in new if name != "versions")
    return ", ".join(words)


@functools.cache
def commit() -> str | None:
    """Commit of the checkout this package runs from, with `-dirty` where tracked files differ; None without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = ["git", "-C", str(root), "rev-parse", "HEAD"]
        status = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]
        found, changed = (
            subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (head, status)
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found + ("-dirty" if changed else "")
