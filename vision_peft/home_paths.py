"""Paths that start with `~`, as people type them."""

import os
from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """Return a path with the home folder in place of `~` or `~user`; where there is no such user, it stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  that of Path raises RuntimeError
