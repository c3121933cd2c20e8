"""Decoded pixels kept in memory, up to a limit."""

from collections.abc import Hashable
from typing import Any

import numpy as np


class Store:
    """Pixels (uint8, of bands float32) kept by key, at most `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.kept: dict[Hashable, np.ndarray] = {}

    def keep(self, key: Hashable, pixels: np.ndarray) -> bool:
        """Keep `pixels`; False where they do not fit any more."""
        if key not in self.kept:
            if self.used + pixels.nbytes > self.limit:
                return False
            self.kept[key] = pixels
            self.used += pixels.nbytes
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (0,)  # a process that is started anew gets none of it: its copy would be beyond the limit
