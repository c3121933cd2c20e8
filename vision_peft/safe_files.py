"""Open, walk and write files in folders that may come from someone else.

What is read is a regular file: a pipe would block for ever, a device has no end. What is written goes into a new file
that then takes the place of the old one, so that neither a link that someone left there nor a kill half way harms
anything. These are promises about files that lie there, not about someone who changes them meanwhile.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has neither
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
}


def check_folder(folder: Path, unread: Collection[str] = ()) -> None:
    """Walk `folder`: all in it must be files and folders, at any depth.

    Args:
        folder: may itself be a link, which the user typed.
        unread: names of folders in it that are left out, as nothing in them will be opened.

    Raises:
        ValueError: a link or a special file, which is named; nothing was opened.
        OSError: a folder in it cannot be listed.
    """
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path, mode = Path(entry.path), entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    waiting += [path] if path.parent != folder or path.name not in unread else []
                elif not stat.S_ISREG(mode):
                    raise ValueError(f"{path} is {_kind(mode)}: only files and folders belong there, remove it")


def check_regular(path: Path, follow: bool = True) -> None:
    """Raise ValueError where `path` is there and no regular file; with `follow` a link to one is accepted."""
    try:
        mode = path.stat(follow_symlinks=follow).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is {_kind(mode)}, wanted a file: remove it")


def read_file(path: Path, most: int) -> bytes:
    """Return the content of a regular file; a link to one is followed.

    Raises:
        ValueError: something else than a file, or more than `most` bytes.
        OSError: it is not there, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{path} has {size:,} bytes, wanted at most {most:,}")
        return file.read(most + 1)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read; a link to one is followed. ValueError where it is something else."""
    descriptor = os.open(path, os.O_RDONLY | _NO_WAIT | _BINARY)
    return _as_file(descriptor, path, "rb")


def open_to_append(path: Path) -> BinaryIO:
    """Open a file, made where there is none, for bytes that are appended unbuffered.

    Raises:
        ValueError: a link, a special file, or a file that has another name elsewhere, which would change with it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_FOLLOW | _NO_WAIT | _BINARY, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # what a link, and a pipe that nobody reads, end in
            raise
        raise ValueError(f"{path} is a link or a pipe, wanted a file: remove it") from None
    file = _as_file(descriptor, path, "ab")
    if os.fstat(descriptor).st_nlink > 1:
        file.close()
        raise ValueError(f"{path} is a hard link, the other file would change with it: replace it by a copy")
    return file


def write_file(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) as `path`, as `replacing` does."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by name into `folder`: all of them are whole on the disk before the first takes its place."""
    partial = {folder / name: folder / f"{name}.tmp" for name in contents}
    try:
        for path, content in zip(partial.values(), contents.values(), strict=True):
            with _new_file(path) as file:
                file.write(content)
        for path, temporary in partial.items():
            temporary.replace(path)
    finally:
        for temporary in partial.values():
            temporary.unlink(missing_ok=True)
    sync_folder(folder)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file beside `path` to write to, which takes its place at the end: whole, synced, or not at all.

    Nothing that lies at either place is followed or opened: a link is replaced by the file.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with _new_file(temporary) as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` outlive a crash."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Make a file in place of whatever an interrupted writer left there, synced at the end."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _as_file(descriptor: int, path: Path, mode: str) -> BinaryIO:
    found = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(found):
        os.close(descriptor)
        raise ValueError(f"{path} is {_kind(found)}, wanted a file: remove it")
    if _NO_WAIT:
        os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, mode, buffering=0 if mode == "ab" else -1)  # pyright: ignore[reportReturnType]


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "no file")
