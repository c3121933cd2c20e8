"""Text files that grow by lines and outlive a full disk."""

import contextlib
import os
from pathlib import Path

from vision_peft.safe_files import open_to_append


class Journal:
    """Lines appended to `path`. One that cannot be written waits in memory; the file never holds a part of a line."""

    def __init__(self, path: Path) -> None:
        self.path, self._waiting = path, b""
        self._file = open_to_append(path)

    def add(self, lines: str) -> None:
        """Append `lines`, each with its end; where the disk is full they wait for the next call."""
        self._waiting += lines.encode()
        with contextlib.suppress(OSError):
            self.write_out()

    def write_out(self) -> None:
        """Write what waits; OSError where that is still impossible."""
        if not self._waiting:
            return
        size, left = os.fstat(self._file.fileno()).st_size, memoryview(self._waiting)
        try:
            while left:  # a disk with a little space takes the first part without an error
                left = left[self._file.write(left) :]
        except OSError:
            os.ftruncate(self._file.fileno(), size)
            raise
        self._waiting = b""

    def close(self) -> None:
        """Close the file; lines that still cannot be written are lost."""
        self.add("")
        self._file.close()
