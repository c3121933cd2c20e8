"""A tensor with a row for each item of a dataset, filled batch by batch: in memory, or in a file that is mapped.

The file is taken out of its folder as soon as all who read it have it open: the system frees its room when the last of
them ends, in whatever way. Where that is not allowed (Windows) it goes when it is closed.
"""

import contextlib
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

LEFT_FREE = 2**28  # bytes of the disk that a file leaves to states and logs


class RowsInMemory:
    """Rows of one shape and type in memory."""

    def __init__(self, items: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.whole = torch.empty(items, *shape, dtype=dtype)

    def write(self, items: Tensor, rows: Tensor) -> None:
        """Put the rows (B ...) of so many items in their places."""
        self.whole[items] = rows

    def finish(self) -> Tensor:
        """Return all rows, once they are written."""
        return self.whole

    def close(self) -> None:
        """Give up what is kept outside of the memory."""


class RowsInFile:
    """Rows of one shape and type in a file that `create_file` made: one process writes, others may read it too."""

    def __init__(self, path: Path, items: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.path, self.size, self.dtype = path, (items, *shape), dtype
        self._row_bytes = math.prod(shape) * dtype.itemsize
        self._file = path.open("r+b", buffering=0)

    def write(self, items: Tensor, rows: Tensor) -> None:
        """Put the rows (B ...) of so many items in their places; OSError where the disk is full."""
        numbers = rows.contiguous().view(torch.uint8).reshape(len(rows), self._row_bytes).numpy()
        for item, row in zip(items.tolist(), numbers, strict=True):
            self._file.seek(item * self._row_bytes)
            left = memoryview(row)
            while left:
                left = left[self._file.write(left) :]

    def finish(self) -> Tensor:
        """Return all rows, once they are written, as a tensor that is read from the file where it is used."""
        mapped = mmap.mmap(self._file.fileno(), math.prod(self.size) * self.dtype.itemsize, access=mmap.ACCESS_COPY)
        return torch.frombuffer(mapped, dtype=self.dtype).view(self.size)

    def take_out_of_folder(self) -> None:
        """Remove the name of the file, where the system allows that of an open one."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; of what `finish` returned it goes with the tensor."""
        self._file.close()
        self.take_out_of_folder()


def create_file(folder: Path, size: int) -> Path:
    """Create an empty file that `size` bytes are to be written to.

    Raises:
        OSError: the disk has no room for them, or the folder is none that can be written to.
    """
    free = shutil.disk_usage(folder).free
    if free < size + LEFT_FREE:
        raise OSError(f"{size / 1e6:,.0f} MB would leave too little of the {free / 1e6:,.0f} MB that {folder} has free")
    number, name = tempfile.mkstemp(prefix="kept-", suffix=".bin", dir=folder)
    os.close(number)
    return Path(name)
