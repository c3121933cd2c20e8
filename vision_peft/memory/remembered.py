"""Batches that were too large for this machine, by what was trained: a small file, without which nothing is lost."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vision_peft.home_paths import expand_home
from vision_peft.strict_json import parse_json

FILE = "too_large_batches.json"
MOST = 1000  # entries; the oldest are dropped
MAX_BYTES = 200_000


def memory_key(*parts: Any) -> str:
    """Return a short name of what was trained, where and within which limit."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def recall(key: str) -> int | None:
    """Return the smallest number of items that was too many, None where none is known."""
    return _read(_folder() / FILE).get(key)


def remember(key: str, items: int) -> None:
    """Note that so many items were too many; that it cannot be written (a read-only home) stops nothing."""
    path = _folder() / FILE
    with contextlib.suppress(OSError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=10):  # of several writers, each keeps what the others wrote
            known = _read(path)
            smallest = min(items, known.pop(key, items))
            known = dict([*known.items(), (key, smallest)][-MOST:])
            written = path.with_name(f"{FILE}.{os.getpid()}.tmp")
            written.write_text(json.dumps(known), encoding="utf-8")
            written.replace(path)


def _folder() -> Path:
    return expand_home(os.environ.get("VISION_PEFT_CACHE") or "~/.cache/vision_peft")


def _read(path: Path) -> dict[str, int]:
    """Return what the file holds; nothing of one that is damaged or absent."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: items for key, items in found.items() if isinstance(items, int) and items > 0}
