"""Read files of `torch.save` from someone else: plain values and tensors, none larger than the file itself.

`torch.load(weights_only=True)` runs no code, but takes a file at its word: a storage is as long as it says, `bytearray`
and numpy's constructors make what they are asked for, a compressed member unpacks without a limit, and what the file
holds once can be copied a thousand times. So the pickle is read here first, opcode by opcode and without making
anything, and refused where it asks for more than it brings, in one object or in all together. Only then torch loads the
file.
"""

import argparse
import contextlib
import math
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from vision_peft.torch_scan import MOST_SIDES, NO_FILE, NUMPY, Scan, shorten, want
from vision_peft.torch_scan import RefusedFile as RefusedFile

_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")  # of numpy's arrays and numbers


def load_torch_file(path: Path) -> Any:
    """Load what `torch.save` wrote, to the CPU, with no code in it run and nothing larger made than the file.

    Besides tensors and plain values exactly the types are read that published files hold: `argparse.Namespace` and
    numpy arrays and numbers.

    Raises:
        RefusedFile: in one line, what is wrong with it.
        OSError: it cannot be opened.
    """
    check_torch_file(path)
    builders = [(_rebuild_array if name.endswith("_reconstruct") else _rebuild_number, name) for name in NUMPY]
    kinds = [(Kind, "numpy.dtype"), (Array, "numpy.ndarray")]
    with _one_error(path), torch.serialization.safe_globals([argparse.Namespace, *builders, *kinds]):
        return torch.load(path, map_location="cpu", weights_only=True)


def check_torch_file(path: Path) -> None:
    """Check what a file asks for, before other code loads it; raises as `load_torch_file` does."""
    with _one_error(path), path.open("rb") as file:
        _check(file, path.stat().st_size)


def check_torch_stream(file: BinaryIO, size: int, name: str) -> None:
    """Check what the `size` bytes of an open file ask for; raises RefusedFile, with `name`, as above."""
    with _one_error(Path(name)):
        _check(file, size)


@contextlib.contextmanager
def _one_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileNotFoundError):
        raise
    except RefusedFile as error:
        raise RefusedFile(f"{path} {error}") from None
    except Exception as error:  # damaged bytes raise whatever zipfile, pickletools and torch stumble over
        raise RefusedFile(f"{path} is truncated or not a torch file.") from error


def _check(file: BinaryIO, size: int) -> None:
    """Raise RefusedFile where the file asks for more than it holds, or an error of another kind where it is damaged."""
    start = file.read(4)
    file.seek(0)
    if start != b"PK\x03\x04":  # what torch wrote before 1.6: a few pickles, then the storages
        scan = Scan(size, lambda key: size)
        for _ in range(5):  # magic number, version, sizes of integers, the object, names of storages
            scan.run(pickletools.genops(file))
        if sum(scan.storages.values()) > size:
            raise RefusedFile("claims storages larger than the whole file.")
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename: member.file_size for member in members}
        if not members:
            raise RefusedFile(NO_FILE)
        root = members[0].filename.partition("/")[0]
        if f"{root}/constants.pkl" in names:
            raise RefusedFile(
                "is a TorchScript archive (OpenAI publishes CLIP as such), which can hold code. Where you trust it, "
                f"save its tensors and give that file: torch.save(torch.jit.load({archive.filename!r}, "
                "map_location='cpu').state_dict(), 'clip.pth')"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise RefusedFile("has compressed members, which torch does not write.")
        if archive.comment or sum(names.values()) > size or len({name.lower() for name in names}) < len(members):
            raise RefusedFile(NO_FILE)
        scan = Scan(size, lambda key: names.get(f"{root}/data/{key}", -1))
        scan.run(pickletools.genops(archive.read(f"{root}/data.pkl")))


class Kind:
    """In place of `numpy.dtype`: one of a few kinds of numbers."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        if name not in _KINDS:
            raise RefusedFile(f"holds an array of the kind {str(name)[:40]!r}, wanted one of {', '.join(_KINDS)}.")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class Array(np.ndarray):
    """In place of `numpy.ndarray`: it is as large as the bytes that come with it, or refused."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        want(type(shape) is tuple and len(shape) <= MOST_SIDES)
        want(all(type(side) is int and side >= 0 for side in shape))
        want(isinstance(kind, Kind) and isinstance(data, bytes))
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise RefusedFile(f"claims an array of shape {shorten(shape)} and holds {len(data):,} bytes of it.")
        super().__setstate__((1, shape, kind.dtype, bool(by_columns), data))  # pyright: ignore[reportArgumentType]


def _rebuild_array(*_: Any) -> Array:
    return np.zeros(0, np.uint8).view(Array)


def _rebuild_number(kind: Any, data: Any = b"") -> Any:
    want(isinstance(kind, Kind) and isinstance(data, bytes) and len(data) == kind.dtype.itemsize)
    return np.frombuffer(data, kind.dtype)[0].item()
