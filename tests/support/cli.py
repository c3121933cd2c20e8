"""Verbs as a user types them, started as processes."""

import os
import subprocess
import sys
from pathlib import Path

LOADING = "loading PyTorch and timm ...\n"  # on stderr, where a process has to import torch


def run_module(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m vision_peft ...` in `folder`, the same as `vision-peft ...`."""
    words = [sys.executable, "-m", "vision_peft", *arguments]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(words, cwd=folder, env=settings, capture_output=True, text=True, timeout=300, check=False)
