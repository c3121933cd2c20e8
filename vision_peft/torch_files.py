"""Read files of `torch.save` from someone else: plain values and tensors, none larger than the file itself.

`torch.load(weights_only=True)` runs no code, but takes a file at its word: a storage is as long as it says, `bytearray`
and numpy's constructors make what they are asked for, a compressed member unpacks without a limit. So the pickle is
read here first, opcode by opcode and without making anything, and refused where it asks for more than it brings. Only
then torch loads the file.
"""

import argparse
import contextlib
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

_SIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
_SIZES |= {"Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8}
_STORAGES = {f"torch.{name}Storage": size for name, size in _SIZES.items()} | {"torch.storage.UntypedStorage": 1}
_NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
_CALLED = ("torch._utils._rebuild_parameter", "torch.Size", "torch.device", "numpy.dtype", *_NUMPY)
_MADE = ("collections.OrderedDict", "collections.Counter", "argparse.Namespace")  # empty, then filled
_REBUILD = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_BYTES = "_codecs.encode"  # of protocol 2, which has no bytes
_ALLOWED = (*_STORAGES, *_CALLED, *_MADE, *_REBUILD, _BYTES, "numpy.ndarray")
_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")  # of numpy's arrays and numbers
_PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_FILE = "is damaged or not a torch file."


class RefusedFile(ValueError):
    """A file that is damaged, wants to run code or asks for more than it holds; the message says which."""


def load_torch_file(path: Path) -> Any:
    """Load what `torch.save` wrote, to the CPU, with no code in it run and nothing larger made than the file.

    Besides tensors and plain values exactly the types are read that published files hold: `argparse.Namespace` and
    numpy arrays and numbers.

    Raises:
        RefusedFile: in one line, what is wrong with it.
        OSError: it cannot be opened.
    """
    check_torch_file(path)
    builders = [(_rebuild_array if name.endswith("_reconstruct") else _rebuild_number, name) for name in _NUMPY]
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
        scan = _Scan(size, lambda key: size)
        for _ in range(5):  # magic number, version, sizes of integers, the object, names of storages
            scan.run(pickletools.genops(file))
        if sum(scan.storages.values()) > size:
            raise RefusedFile("claims storages larger than the whole file.")
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename: member.file_size for member in members}
        if not members:
            raise RefusedFile(_NO_FILE)
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
            raise RefusedFile(_NO_FILE)
        scan = _Scan(size, lambda key: names.get(f"{root}/data/{key}", -1))
        scan.run(pickletools.genops(archive.read(f"{root}/data.pkl")))


class _Global(str):
    """The name of a class or a function."""

    __slots__ = ()


class _Made:
    """Stands for an object of the file, of which nothing but its kind matters."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Storage(_Made):
    """Stands for a storage of so many bytes, in items of so many."""

    def __init__(self, size: int, item: int) -> None:
        super().__init__("storage")
        self.size, self.item = size, item


class _Scan:
    """Follows the opcodes of a pickle, those that torch reads, with stand-ins in place of objects.

    Args:
        size: bytes of the whole file.
        bytes_of: bytes that the file holds of a storage, by its key; below 0: none.
    """

    def __init__(self, size: int, bytes_of: Callable[[str], int]) -> None:
        self.size, self.bytes_of = size, bytes_of
        self.storages: dict[str, int] = {}  # bytes that are asked for, by key
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[Any, Any] = {}

    def run(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> None:
        """Read to the end of one pickle.

        Raises:
            RefusedFile: code to run, or a tensor, storage or array larger than the file.
        """
        stack = self.stack
        for opcode, argument, _ in opcodes:
            match opcode.name:
                case "BININT" | "BININT1" | "BININT2" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING" | "LONG1":
                    stack.append(argument)
                case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                    stack.append(_PLAIN[opcode.name])
                case "EMPTY_LIST" | "EMPTY_DICT":
                    stack.append(_Made(opcode.name))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    self._join(len(stack) - _TUPLES[opcode.name])
                case "TUPLE":
                    self._join(self.marks.pop())
                case "MARK":
                    self.marks.append(len(stack))
                case "BINPUT" | "LONG_BINPUT":
                    self.memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(self.memo[argument])
                case "APPEND":
                    stack.pop()
                case "APPENDS":
                    del stack[self.marks.pop() :]
                case "SETITEM":
                    self._set_items(len(stack) - 2)
                case "SETITEMS":
                    self._set_items(self.marks.pop())
                case "GLOBAL":
                    stack.append(_find_global(argument.replace(" ", ".", 1)))
                case "REDUCE" | "NEWOBJ":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self._call(function, arguments, new=opcode.name == "NEWOBJ"))
                case "BUILD":
                    stack.pop()
                    _want(isinstance(stack[-1], _Made))
                case "BINPERSID":
                    stack.append(self._find_storage(*stack.pop()))
                case name:
                    _want(name in ("PROTO", "STOP"))
        stack.clear()

    def _join(self, start: int) -> None:
        self.stack[start:] = [tuple(self.stack[start:])]

    def _set_items(self, start: int) -> None:
        keys = self.stack[start::2]
        del self.stack[start:]
        # to hash a tuple of tuples of tuples, each shared, takes for ever
        _want(all(key is None or type(key) in (str, bytes, int, float, bool) for key in keys))

    def _call(self, function: Any, arguments: Any, new: bool) -> Any:
        _want(type(function) is _Global and type(arguments) is tuple)
        if function == _BYTES and not new:
            text: Any = arguments[0]
            _want(type(text) is str and arguments[1:] in (("latin1",), ("latin-1",)))
            return text.encode("latin-1")
        if function in _REBUILD and not new:
            self._check_tensor(function, *arguments)
        elif function in _MADE:
            _want(arguments == () or [getattr(each, "kind", None) for each in arguments] == ["EMPTY_DICT"])
        else:
            _want(function in _CALLED and not new)
        return _Made(function)

    def _check_tensor(self, function: str, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> None:
        _want(isinstance(storage, _Storage) and type(shape) is tuple and type(strides) is tuple)
        _want(len(shape) == len(strides))
        _want(all(type(number) is int and 0 <= number < 2**63 for number in (offset, *shape, *strides)))
        item = getattr(torch, rest[2].removeprefix("torch.")).itemsize if function.endswith("_v3") else storage.item
        reach = offset + 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if math.prod(shape) * item > self.size or (0 not in shape and reach * item > storage.size):
            raise RefusedFile(f"claims a tensor of shape {_short(shape)}, larger than the whole file.")

    def _find_storage(self, what: Any, kind: Any, key: Any, _: Any, count: Any, part: Any = None) -> _Storage:
        _want(what == "storage" and kind in _STORAGES and type(key) is str and type(count) is int and count >= 0)
        item = _STORAGES[kind]
        if count * item > self.bytes_of(key):
            raise RefusedFile(f"claims a storage of {count * item:,} bytes, larger than what it holds of it.")
        self.storages[key] = max(count * item, self.storages.get(key, 0))
        if part is not None:
            _, start, length = part
            _want(type(start) is type(length) is int and 0 <= start <= start + length <= count)
            count = length
        return _Storage(count * item, item)


def _find_global(name: str) -> _Global:
    is_dtype = isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)
    if name in _ALLOWED or is_dtype:
        return _Global(name)
    raise RefusedFile(
        f"was refused: besides tensors it wants to load {name[:100]!a}, which can run any code. "
        "Where you trust it, save its state_dict() alone, best as .safetensors."
    )


def _want(condition: bool) -> None:
    if not condition:
        raise RefusedFile(_NO_FILE)


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
        _want(type(shape) is tuple and all(type(side) is int and side >= 0 for side in shape))
        _want(isinstance(kind, Kind) and isinstance(data, bytes))
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise RefusedFile(f"claims an array of shape {_short(shape)} and holds {len(data):,} bytes of it.")
        super().__setstate__((1, shape, kind.dtype, bool(by_columns), data))  # pyright: ignore[reportArgumentType]


def _rebuild_array(*_: Any) -> Array:
    return np.zeros(0, np.uint8).view(Array)


def _rebuild_number(kind: Any, data: Any = b"") -> Any:
    _want(isinstance(kind, Kind) and isinstance(data, bytes) and len(data) == kind.dtype.itemsize)
    return np.frombuffer(data, kind.dtype)[0].item()


def _short(shape: tuple[int, ...]) -> str:
    return str(shape)[:100]
