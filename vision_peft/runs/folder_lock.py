"""A lock on a folder: one process at a time, freed when the process ends, however it does."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

from vision_peft.safe_files import open_to_append

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EIO)  # of a file system
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


class FolderLock:
    """Holds the file `path`, which is made where it is absent and never emptied, until it is released.

    Raises:
        BlockingIOError: another process holds it.
        ValueError: a link or something else than a file lies there.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO | None = open_to_append(path)
        try:
            _lock(self._file.fileno())
        except OSError as error:
            if error.errno in NO_LOCKS:  # some network file systems have none
                return
            self.release()
            if error.errno in TAKEN:
                raise BlockingIOError(error.errno, f"{path} is held by another process") from None
            raise

    def release(self) -> None:
        """Let others have it; nothing where that was done before."""
        if self._file is not None:
            self._file.close()
            self._file = None


if os.name == "posix":
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

else:
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
