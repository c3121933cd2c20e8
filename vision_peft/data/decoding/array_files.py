"""Read arrays of .npy and .npz files without trusting them: no pickles, and no memory before the header is checked."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

MAX_ARRAYS = 4096  # of an .npz
_LONGEST_HEADER = 10_000  # bytes
_AT_ONCE = 2**24  # bytes
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class ArrayHeader(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def read_array_headers(path: str | Path, names: Sequence[str] = ()) -> list[ArrayHeader]:
    """Read the header of an .npy file, or those of the arrays that make an image in an .npz file.

    Args:
        names: of the arrays that are its bands; without them an .npz file holds one array.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: the file holds no such arrays.
    """
    with Path(path).open("rb") as file:
        if not _is_zip(file):
            return [_read_header(file)]
        with zipfile.ZipFile(file) as archive:
            headers = []
            for member in _choose(archive, names):
                with archive.open(member) as part:
                    headers.append(_read_header(part))
            return headers


def read_arrays(path: str | Path, names: Sequence[str] = ()) -> list[np.ndarray]:
    """Read the arrays whose headers were checked; ValueError where a file has fewer values than its header says."""
    with Path(path).open("rb") as file:
        if not _is_zip(file):
            return [_read_values(file)]
        with zipfile.ZipFile(file) as archive:
            arrays = []
            for member in _choose(archive, names):
                with archive.open(member) as part:
                    arrays.append(_read_values(part))
            return arrays


def _is_zip(file: IO[bytes]) -> bool:
    start = file.read(4)
    file.seek(0)
    return start == b"PK\x03\x04"


def _choose(archive: zipfile.ZipFile, names: Sequence[str]) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > MAX_ARRAYS:
        raise ValueError(f"it has {len(members):,} arrays, wanted at most {MAX_ARRAYS:,}")
    found = {member.filename.removesuffix(".npy"): member for member in members}
    if names and set(names) <= found.keys():
        return [found[name] for name in names]
    if len(members) != 1:
        listed = ", ".join([*found][:5]) + ", ..." * (len(found) > 5)
        wanted = f"one for each of data.bands ({', '.join(names)})" if names else "those of data.bands"
        raise ValueError(f"it has {len(members):,} arrays ({listed}): wanted one, or {wanted}")
    return members


def _read_header(file: IO[bytes]) -> ArrayHeader:
    version = npy.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"an array of format {version[0]}.{version[1]}: wanted 1.0 or 2.0")
    header = ArrayHeader(*_READERS[version](file, max_header_size=_LONGEST_HEADER))
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    return header


def _read_values(file: IO[bytes]) -> np.ndarray:
    header = _read_header(file)
    wanted = int(np.prod(header.shape, dtype=np.int64)) * header.dtype.itemsize
    data = bytearray()
    while len(data) < wanted and (part := file.read(min(_AT_ONCE, wanted - len(data)))):
        data += part
    if len(data) < wanted:
        raise ValueError(f"it ends after {len(data):,} of {wanted:,} bytes of values")
    values = np.frombuffer(data, header.dtype)
    return values.reshape(header.shape[::-1]).T if header.fortran else values.reshape(header.shape)
