"""Read the `data.json` of a run, which may come from someone else: line by line, as training wrote it."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from vision_peft.data.item_names import to_nfc
from vision_peft.printable import printable
from vision_peft.runs.data_record import VERSION, Item
from vision_peft.safe_files import open_regular
from vision_peft.strict_json import parse_json

_LONGEST_HEAD, _LONGEST_LINE = 2**26, 2**16  # characters


@dataclass(frozen=True)
class SavedSplit:
    """One split: how many items, their digest, and the splits that it puts together; none where it has its own."""

    items: int
    digest: str
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class SavedData:
    """What a data.json says; its items stay in the file."""

    path: Path
    version: int
    digest: str
    classes: list[str]
    splits: dict[str, SavedSplit]

    def has_classes(self, names: Iterable[str]) -> bool:
        """Whether these are the names of the classes, however they are spelt in Unicode."""
        return list(map(to_nfc, names)) == self.classes

    def items(self, split: str) -> Iterator[Item]:
        """Read the items of `split` in their order.

        Raises:
            ValueError: the file is damaged.
        """
        for part in self.splits[split].of or (split,):
            yield from self._read(part)

    def _read(self, split: str) -> Iterator[Item]:
        start, number = f"{json.dumps(split)}: [", 0
        with _open(self.path) as file:
            lines = iter(lambda: file.readline(_LONGEST_LINE), "")
            file.readline(_LONGEST_HEAD)
            while (line := next(lines, None)) is not None and line.rstrip("\n") != start:
                pass
            for line in lines:
                if line.startswith("]"):
                    break
                if text := line.rstrip(",\n"):
                    number += 1
                    yield self._parse(text, number)
        if number != self.splits[split].items:
            raise _damaged(self.path, f"{split} has {number} items, {self.splits[split].items} were written")

    def _parse(self, text: str, number: int) -> Item:
        try:
            name, label, size = parse_json(text)
        except (ValueError, TypeError):
            name = label = size = None
        if type(name) is not str or type(label) is not int or not (size is None or type(size) is int):
            raise _damaged(self.path, f"item {number} is {text[:80]!r}")
        return Item(name, label, size)


def read_saved_data(path: Path) -> SavedData | None:
    """Read the head of a data.json; None where there is none, as an earlier version left it.

    Raises:
        ValueError: the file is damaged, or of a later version.
    """
    try:
        with _open(path) as file:
            head = parse_json(f"{file.readline(_LONGEST_HEAD).rstrip().rstrip(',')}}}")
        version = head["version"]
        if type(version) is not int or not 1 <= version <= VERSION:
            raise ValueError(f"version {version!r} where this vision_peft reads 1 to {VERSION}")
        classes = list(map(to_nfc, _texts(head["classes"])))
        return SavedData(path, version, _text(head["digest"]), classes, _splits(head["splits"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _open(path: Path) -> TextIO:
    return io.TextIOWrapper(open_regular(path), encoding="utf-8")


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} cannot be read ({printable(what, 1000)}): remove it, and the data is not compared")


def _splits(raw: Any) -> dict[str, SavedSplit]:
    splits = {
        _text(name): SavedSplit(int(entry["items"]), _text(entry["digest"]), tuple(_texts(entry.get("of", []))))
        for name, entry in raw.items()
    }
    for name, split in splits.items():
        if any(part not in splits or splits[part].of for part in split.of):
            raise ValueError(f"{name} is made of {', '.join(split.of)}")
    return splits


def _texts(raw: Any) -> list[str]:
    if not isinstance(raw, list):
        raise TypeError(f"wanted a list of text, got {type(raw).__name__}")
    return [_text(value) for value in raw]


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise TypeError(f"wanted text, got {type(raw).__name__}")
    return raw
