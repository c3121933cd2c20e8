"""Follow the pickle of a file of `torch.save` without making anything: what it calls, and how much that would make."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

_SIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
_SIZES |= {"Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8}
_STORAGES = {f"torch.{name}Storage": size for name, size in _SIZES.items()} | {"torch.storage.UntypedStorage": 1}
NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
_SIZE, _KIND, _COUNTS = "torch.Size", "numpy.dtype", "collections.Counter"
_CALLED = ("torch._utils._rebuild_parameter", "torch.device", *NUMPY)
_FILLED = ("collections.OrderedDict", "argparse.Namespace")  # made empty, their attributes are a dict
_REBUILD = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_BYTES = "_codecs.encode"  # of protocol 2, which has no bytes
_ALLOWED = (*_STORAGES, *_CALLED, *_FILLED, *_REBUILD, _SIZE, _KIND, _COUNTS, _BYTES, "numpy.ndarray")
_PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MOST_SIDES, _MOST_ARGUMENTS, _MOST_NOTES = 64, 8, 64  # of a tensor, of a call, in the metadata of a tensor
_ENTRY = 3  # bytes of an entry of a dict in a pickle, at least
NO_FILE = "is damaged or not a torch file."


class RefusedFile(ValueError):
    """A file that is damaged, wants to run code or asks for more than it holds; the message says which."""


class _Global(str):
    """The name of a class or a function."""

    __slots__ = ()


class _Made:
    """Stands for an object of the file, of which nothing but its kind matters, its bytes and the entries of a dict."""

    def __init__(self, kind: str, size: int = 0) -> None:
        self.kind, self.size, self.entries = kind, size, 0


class _Storage(_Made):
    """Stands for a storage of so many bytes, in items of so many."""

    def __init__(self, size: int, item: int) -> None:
        super().__init__("storage", size)
        self.item = item


class Scan:
    """Follows the opcodes of a pickle, those that torch reads, with stand-ins in place of objects.

    Args:
        size: bytes of the whole file.
        bytes_of: bytes that the file holds of a storage, by its key; below 0: none.
    """

    def __init__(self, size: int, bytes_of: Callable[[str], int]) -> None:
        self.size, self.bytes_of = size, bytes_of
        self.storages: dict[str, int] = {}  # bytes that are asked for, by key
        self.made = {"texts": 0, "arrays": 0, "entries": 0}  # bytes that calls make, by what they make
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[Any, Any] = {}

    def run(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> None:
        """Read to the end of one pickle.

        Raises:
            RefusedFile: code to run, or a tensor, storage or array, or copies of one, larger than the file.
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
                    self._set_state(stack.pop())
                case "BINPERSID":
                    stack.append(self._find_storage(*stack.pop()))
                case name:
                    want(name in ("PROTO", "STOP"))
        stack.clear()

    def _join(self, start: int) -> None:
        self.stack[start:] = [tuple(self.stack[start:])]

    def _set_items(self, start: int) -> None:
        keys = self.stack[start::2]
        del self.stack[start:]
        # to hash a tuple of tuples of tuples, each shared, takes for ever
        want(all(key is None or type(key) in (str, int, float, bool) or _kind(key) == _BYTES for key in keys))
        want(isinstance(self.stack[-1], _Made))
        self.stack[-1].entries += len(keys)

    def _set_state(self, state: Any) -> None:
        """Follow what gives the object on top of the stack its attributes, or an array its numbers."""
        kind = _kind(self.stack[-1])
        if kind in _FILLED:
            want(_kind(state) == "EMPTY_DICT")
            self._count("entries", state.entries * _ENTRY)
        else:
            want(kind in (_KIND, *NUMPY) and type(state) is tuple and len(state) <= _MOST_ARGUMENTS)
            self._count("arrays", sum(each.size for each in state if isinstance(each, _Made)))

    def _count(self, what: str, size: int) -> None:
        """Raise RefusedFile where calls have made more bytes than the file has, by copying what it holds once."""
        self.made[what] += size
        if self.made[what] > self.size:
            raise RefusedFile("copies what it holds again and again, into more than the whole file.")

    def _call(self, function: Any, arguments: Any, new: bool) -> Any:
        want(type(function) is _Global and type(arguments) is tuple and len(arguments) <= _MOST_ARGUMENTS)
        given: list[Any] = [*arguments]
        if function == _BYTES and not new:
            text: Any = given[0]
            want(type(text) is str and given[1:] in (["latin1"], ["latin-1"]))
            self._count("texts", len(text))
            return _Made(_BYTES, len(text.encode("latin-1")))
        if function in _REBUILD and not new:
            self._check_tensor(function, *given)
        elif function == _SIZE and not new:
            want(type(given[0]) is tuple and len(given[0]) <= MOST_SIDES)
            want(all(type(number) is int for number in given[0]))
        elif function == _KIND and not new:
            want(type(given[0]) is str)
        elif function == _COUNTS and given:
            want([*map(_kind, given)] == ["EMPTY_DICT"])
            self._count("entries", given[0].entries * _ENTRY)
        elif function in (_COUNTS, *_FILLED):
            want(not given)
        else:
            want(function in _CALLED and not new)
        return _Made(function)

    def _check_tensor(self, function: str, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> None:
        want(isinstance(storage, _Storage) and type(shape) is tuple and type(strides) is tuple)
        want(len(shape) == len(strides) <= MOST_SIDES)
        want(all(getattr(each, "entries", 0) <= _MOST_NOTES for each in rest))
        want(all(type(number) is int and 0 <= number < 2**63 for number in (offset, *shape, *strides)))
        item = getattr(torch, rest[2].removeprefix("torch.")).itemsize if function.endswith("_v3") else storage.item
        reach = offset + 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if math.prod(shape) * item > self.size or (0 not in shape and reach * item > storage.size):
            raise RefusedFile(f"claims a tensor of shape {shorten(shape)}, larger than the whole file.")

    def _find_storage(self, what: Any, kind: Any, key: Any, _: Any, count: Any, part: Any = None) -> _Storage:
        want(what == "storage" and type(kind) is _Global and kind in _STORAGES)
        want(type(key) is str and type(count) is int and count >= 0)
        item = _STORAGES[kind]
        if count * item > self.bytes_of(key):
            raise RefusedFile(f"claims a storage of {count * item:,} bytes, larger than what it holds of it.")
        self.storages[key] = max(count * item, self.storages.get(key, 0))
        if part is not None:
            _, start, length = part
            want(type(start) is type(length) is int and 0 <= start <= start + length <= count)
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


def _kind(thing: Any) -> str | None:
    return thing.kind if isinstance(thing, _Made) else None


def want(condition: bool) -> None:
    if not condition:
        raise RefusedFile(NO_FILE)


def shorten(shape: tuple[int, ...]) -> str:
    return str(shape)[:100]
