"""Lists of text and of whole numbers that hold no Python object for each item.

A list of a million paths is a million objects. Reading one changes its reference count, so that every worker process of
a loader in time has a copy of every page of the list. Here the items lie in a few arrays that nothing writes to.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

_AT_ONCE = 4096  # items of an array that are Python objects at the same time


class IntArray(Sequence[int]):
    """Whole numbers, 8 bytes each."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        if isinstance(values, IntArray):
            self.values = values.values
        elif isinstance(values, np.ndarray):
            self.values = values.astype(np.int64, copy=False)
        else:
            self.values = np.fromiter((int(value) for value in values), np.int64)

    def take(self, items: Sequence[int] | np.ndarray) -> "IntArray":
        """Return the numbers at the places `items`."""
        return IntArray(self.values[_places(items)])

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "IntArray": ...
    def __getitem__(self, index: int | slice) -> "int | IntArray":
        found = self.values[index]
        return IntArray(found) if isinstance(index, slice) else int(found)

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self.values), _AT_ONCE):
            yield from self.values[start : start + _AT_ONCE].tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, IntArray):
            return np.array_equal(self.values, other.values)
        return _equals(self, other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"IntArray({_shown(self)})"


class TextArray(Sequence[str]):
    """Texts in one buffer of UTF-8, 8 bytes each beside it; what `take` returns shares the buffer.

    Args:
        data: the texts without `prefix`, behind one another.
        starts, ends: where in `data` each of them is.
        prefix: what all texts start with.
    """

    def __init__(self, data: bytes, starts: np.ndarray, ends: np.ndarray, prefix: str = "") -> None:
        kind = np.uint32 if len(data) < 2**32 else np.int64
        self.data, self.prefix = data, prefix
        self.starts, self.ends = starts.astype(kind, copy=False), ends.astype(kind, copy=False)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TextArray":
        """Return `texts`, unchanged if they are such an array."""
        if isinstance(texts, TextArray):
            return texts
        builder = TextBuilder()
        for text in texts:
            builder.add(text)
        return builder.build()

    @classmethod
    def join(cls, arrays: Sequence["TextArray"]) -> "TextArray":
        """Return the texts of several arrays behind one another."""
        if len({array.prefix for array in arrays}) > 1:
            return cls.of(text for array in arrays for text in array)
        buffers = {id(array.data): array.data for array in arrays}  # each once
        ends = np.cumsum([0, *map(len, buffers.values())]).tolist()
        offset_of = dict(zip(buffers, ends, strict=False))
        nothing = np.empty(0, np.int64)
        return cls(
            b"".join(buffers.values()),
            np.concatenate([nothing, *(array.starts.astype(np.int64) + offset_of[id(array.data)] for array in arrays)]),
            np.concatenate([nothing, *(array.ends.astype(np.int64) + offset_of[id(array.data)] for array in arrays)]),
            arrays[0].prefix if arrays else "",
        )

    def take(self, items: Sequence[int] | np.ndarray) -> "TextArray":
        """Return the texts at the places `items`."""
        places = _places(items)
        return TextArray(self.data, self.starts[places], self.ends[places], self.prefix)

    def starts_with(self, letter: str) -> bool:
        """Whether one of the texts starts with an ASCII letter."""
        first = np.frombuffer(self.data, np.uint8)[self.starts[self.starts < self.ends]]
        return self.prefix.startswith(letter) if self.prefix else bool((first == ord(letter)).any())

    def without_prefix(self) -> "TextArray":
        """Return the texts without what all of them start with."""
        return TextArray(self.data, self.starts, self.ends)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "TextArray": ...
    def __getitem__(self, index: int | slice) -> "str | TextArray":
        if isinstance(index, slice):
            return TextArray(self.data, self.starts[index], self.ends[index], self.prefix)
        return self.prefix + _decode(self.data[self.starts[index] : self.ends[index]])

    def __iter__(self) -> Iterator[str]:
        prefix = self.prefix
        for encoded in self.iterate_encoded():
            yield prefix + _decode(encoded)

    def iterate_encoded(self) -> Iterator[bytes]:
        """Yield the texts in UTF-8, without what all of them start with."""
        data = self.data
        for first in range(0, len(self.starts), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            for start, end in zip(self.starts[part].tolist(), self.ends[part].tolist(), strict=True):
                yield data[start:end]

    def __add__(self, other: Iterable[str]) -> "TextArray":
        return TextArray.join([self, TextArray.of(other)])

    def __eq__(self, other: object) -> bool:
        return _equals(self, other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"TextArray({_shown(self)})"


class TextBuilder:
    """Puts texts together to a `TextArray`."""

    def __init__(self) -> None:
        self._data, self._sizes = bytearray(), array("q")
        self._waiting: list[str] = []

    def __len__(self) -> int:
        return len(self._sizes) + len(self._waiting)

    def add(self, text: str) -> None:
        """Append one text."""
        self._waiting.append(text)
        if len(self._waiting) == _AT_ONCE:
            self._store()

    def add_below(self, folder: str, names: Iterable[str]) -> None:
        """Append `folder` + name for each of `names`."""
        self._waiting += [folder + name for name in names]
        self._store()

    def build(self, prefix: str = "") -> TextArray:
        """Return all texts, each with `prefix` in front."""
        self._store()
        ends = np.cumsum(np.frombuffer(self._sizes, np.int64)) if self._sizes else np.empty(0, np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
        return TextArray(bytes(self._data), starts, ends, prefix)

    def _store(self) -> None:
        joined = "".join(self._waiting)
        if joined.isascii():
            self._data += joined.encode()
            self._sizes.extend(map(len, self._waiting))
        else:
            encoded = [text.encode("utf-8", "surrogatepass") for text in self._waiting]
            self._data += b"".join(encoded)
            self._sizes.extend(map(len, encoded))
        self._waiting.clear()


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _places(items: Sequence[int] | np.ndarray) -> Any:
    """Return what indexes an array at `items`: a slice where they are a range, which copies nothing."""
    if isinstance(items, range) and items.step > 0 and items.start >= 0:
        return slice(items.start, items.stop, items.step)
    return np.asarray(items, dtype=np.int64)


def _equals(ours: Sequence[Any], other: object) -> Any:
    if not isinstance(other, Sequence) or isinstance(other, str):
        return NotImplemented
    return len(ours) == len(other) and all(one == two for one, two in zip(ours, other, strict=True))


def _shown(items: Sequence[Any]) -> str:
    return f"[{', '.join(map(repr, items[:5]))}{', ...' if len(items) > 5 else ''}], {len(items):,} items"
