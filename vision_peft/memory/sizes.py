"""How much memory there is, and how much is written."""

import os
from pathlib import Path

import torch

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def total_memory(device: torch.device) -> int:
    """Return the bytes of the GPU, or of the machine or container that this process runs in."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        try:
            limit = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        found = min(found, int(limit)) if limit.isdigit() else found
    return found


def format_memory(size: float) -> str:
    """Write bytes as a table has them: ``610 MB``, ``7.9 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
