"""Reads torch's distributed checkpoints as plain data.

torch keeps their table of contents, `.metadata`, as a pickle and reads it with `pickle.load`; what a stranger put there
would run. Here every class in it stands for a record of what was stored, the checkpoint's own objects are built from
those records, and anything else is refused. Entries that are not tensors are refused too: torch reads them with
`weights_only=False`. Of the files of tensors every part is checked, as `torch_files` does, before torch loads it.
"""

import io
import os
import pickle
from pathlib import Path, PurePath
from typing import IO, Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from vision_peft.safe_files import read_file
from vision_peft.torch_files import check_torch_stream

MAX_METADATA = 2**26  # bytes
_MOST_SIDES = 64  # of a tensor
_MOST_ARGUMENTS = 1024  # the folders of a path are some
MISPLACED = "the table of contents places a tensor there"


class _Record:
    """What the pickle says of an object of torch; nothing of it is run."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Contents(_Record): ...


class _Tensor(_Record): ...


class _Chunk(_Record): ...


class _Index(_Record): ...


class _Place(_Record): ...


def _unused(*_: Any) -> None:
    return None


def _as_sides(sides: Any) -> tuple[Any, ...]:
    """Return what stands for a size, the tuple itself: to copy what the pickle holds once could take any room."""
    if type(sides) is not tuple or len(sides) > _MOST_SIDES:
        raise pickle.UnpicklingError(f"wanted a size, a tuple of at most {_MOST_SIDES} numbers")
    return sides


_METADATA, _FILES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
_STANDS_FOR: dict[tuple[str, str], Any] = {
    (_METADATA, "Metadata"): _Contents,
    (_METADATA, "TensorStorageMetadata"): _Tensor,
    (_METADATA, "ChunkStorageMetadata"): _Chunk,
    (_METADATA, "MetadataIndex"): _Index,
    (_FILES, "_StorageInfo"): _Place,
    (_METADATA, "TensorProperties"): _Record,
    (_METADATA, "StorageMeta"): _Record,
    (_METADATA, "_MEM_FORMAT_ENCODING"): _unused,
    ("torch.serialization", "_get_layout"): _unused,
    ("torch", "Size"): _as_sides,
}
# the folder it was written to
_STANDS_FOR |= {
    (module, f"{kind}Path"): _unused for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")
}


# All that a table of contents is written with: no bytes of a length that is only claimed, no sets, no numbers as text.
_OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
)


_ALL: Any = pickle._Unpickler.dispatch  # pyright: ignore[reportAttributeAccessIssue]
_READERS = {opcode: _ALL[opcode] for opcode in (getattr(pickle, name)[0] for name in _OPCODES)}


class _Unpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    """The one in Python: that in C makes room for as many objects as an opcode says there are."""

    stack: list[Any]
    dispatch: Any = _READERS

    def _set_items(self, start: int) -> None:
        """Refuse keys that are no text and no record: to hash tuples in tuples, each shared, takes for ever."""
        if not all(isinstance(key, str | _Record) for key in self.stack[start::2]):
            raise pickle.UnpicklingError("it has a key that is not text")

    def _load_setitem(self) -> None:
        self._set_items(len(self.stack) - 2)
        pickle._Unpickler.load_setitem(self)  # pyright: ignore[reportAttributeAccessIssue]

    def _load_setitems(self) -> None:
        self._set_items(0)  # what is behind the mark is a stack of its own
        pickle._Unpickler.load_setitems(self)  # pyright: ignore[reportAttributeAccessIssue]

    def _load_reduce(self) -> None:
        arguments = self.stack[-1]
        if type(arguments) is not tuple or len(arguments) > _MOST_ARGUMENTS:
            raise pickle.UnpicklingError("it calls something with more than a few arguments")
        pickle._Unpickler.load_reduce(self)  # pyright: ignore[reportAttributeAccessIssue]

    def _load_build(self) -> None:
        if not isinstance(self.stack[-2], _Record):
            raise pickle.UnpicklingError("it gives a state to what has none")
        pickle._Unpickler.load_build(self)  # pyright: ignore[reportAttributeAccessIssue]

    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = _load_setitem, _load_setitems
    dispatch[pickle.REDUCE[0]], dispatch[pickle.BUILD[0]] = _load_reduce, _load_build

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STANDS_FOR:
            return _STANDS_FOR[module, name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which can run any code")


class ShardReader(FileSystemReader):
    """torch's reader of a folder of shards, without its pickle."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the table of contents.

        Raises:
            OSError: it is not there.
            ValueError: it is damaged, wants to run code, or names files outside the folder.
        """
        path = self._get_metadata_path(*args, **kwargs)
        try:
            metadata = _rebuild(_Unpickler(io.BytesIO(read_file(Path(path), MAX_METADATA))).load())
        except OSError:
            raise
        except Exception as error:  # a damaged pickle raises whatever its opcodes stumble over
            raise ValueError(f"{path} is refused: {str(error).partition(chr(10))[0] or type(error).__name__}") from None
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata

    def _slice_file(self, file: Any, sinfo: _StorageInfo) -> IO[bytes]:
        """Return a part of a file, which torch loads as a file of its own, once it is known to be a sound one."""
        start, length, size = sinfo.offset, sinfo.length, os.fstat(file.fileno()).st_size
        if start + length > size:
            raise ValueError(f"{file.name} has {size:,} bytes, {MISPLACED} up to {start + length:,}")
        file.seek(start)
        part = io.BytesIO(file.read(length))
        check_torch_stream(part, length, file.name)
        part.seek(0)
        return part


def _rebuild(contents: Any) -> Metadata:
    """torch's own objects from the records, every field checked."""
    fields = _fields(contents, _Contents)
    for name in ("state_dict_metadata", "storage_data"):
        if not isinstance(fields[name], dict):
            raise ValueError(f"{name} is not a table")
    parts = sum(len(_list_chunks(name, value)) for name, value in fields["state_dict_metadata"].items())
    if parts > len(fields["storage_data"]):
        raise ValueError(f"it has {parts:,} parts of tensors, and places of {len(fields['storage_data']):,}")
    tensors: dict[str, Any] = {
        _text(name): _tensor(name, value) for name, value in dict(fields["state_dict_metadata"]).items()
    }
    places = {_index(index): _place(place) for index, place in dict(fields["storage_data"]).items()}
    return Metadata(tensors, storage_data=places, version=fields.get("version") and _text(fields["version"]))


def _fields(record: Any, wanted: type[_Record]) -> dict[str, Any]:
    if type(record) is not wanted or not isinstance(record.state, dict):
        raise ValueError(f"wanted a record{wanted.__name__.lower()}, got {type(record).__name__}")
    return record.state


def _list_chunks(name: str, record: Any) -> list[Any]:
    if type(record) is not _Tensor:
        raise ValueError(f"{name!r} is not a tensor")
    if type(chunks := record.state["chunks"]) is not list:
        raise ValueError(f"{name!r} has no list of parts")
    return chunks


def _tensor(name: str, record: Any) -> TensorStorageMetadata:
    properties = record.state["properties"].state
    if not isinstance(properties[0], torch.dtype):
        raise ValueError(f"{name!r} has no type")
    chunks = [_fields(chunk, _Chunk) for chunk in _list_chunks(name, record)]
    return TensorStorageMetadata(
        TensorProperties(dtype=properties[0]),
        _size(record.state["size"]),
        [ChunkStorageMetadata(offsets=_size(chunk["offsets"]), sizes=_size(chunk["sizes"])) for chunk in chunks],
    )


def _index(record: Any) -> MetadataIndex:
    fields = _fields(record, _Index)
    offset, index = fields.get("offset"), fields.get("index")
    return MetadataIndex(
        _text(fields["fqn"]), None if offset is None else _size(offset), None if index is None else _whole(index)
    )


def _place(record: Any) -> _StorageInfo:
    fields = _fields(record, _Place)
    name = _text(fields["relative_path"])
    if name in ("", "..") or PurePath(name).name != name or "\0" in name:
        raise ValueError(f"{name!r} is not a file of this folder")
    if fields.get("transform_descriptors"):
        raise ValueError(f"{name!r} is packed in a way that is not read here")
    return _StorageInfo(name, _whole(fields["offset"]), _whole(fields["length"]))


def _size(value: Any) -> torch.Size:
    if not isinstance(value, tuple) or len(value) > _MOST_SIDES:
        raise ValueError(f"wanted a size of at most {_MOST_SIDES} numbers, got {type(value).__name__}")
    return torch.Size(_whole(number) for number in value)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"wanted a whole number from 0, got {value!r:.40}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"wanted text, got {type(value).__name__}")
    return value
