"""The items of the data as they are now: what `data.json` of a run holds, and their digest.

The file is JSON that is written and read line by line, so that a million items need little memory: its first line holds
the class names and the digest of every split, each further line one item, `["path below the root", label, bytes]`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vision_peft.data import DataConfig, ImageDataset
from vision_peft.data.item_names import name_below
from vision_peft.printable import printable
from vision_peft.runs.stored_sizes import has_several_files, measure_file, measure_item
from vision_peft.safe_files import replacing

DATA = "data.json"
VERSION = 2  # version 1 has the bytes of the first file of an image with a file for each band, and none of frames
_AT_ONCE = 4096  # items
_THREADS = 16  # most that ask a file system for sizes
_NO_SIZE = -1
_SUMS = 2**256


class Item(NamedTuple):
    """One image or video of a split."""

    name: str  # path below the root of the data, or what stands for an item without a file of its own
    label: int
    size: int | None  # bytes of all its files; None: it is not stored


class DataRecord:
    """What a run reads: the items of its splits, in their order, and the names of the classes.

    Nothing is looked at before it is asked for; sizes and digests then once.
    """

    def __init__(self, splits: Mapping[str, ImageDataset], config: DataConfig) -> None:
        self.splits, self.config = splits, config
        self.version = VERSION

    def measured_as(self, version: int) -> "DataRecord":
        """Return the record as a data.json of `version` has it, so that it can be compared with one."""
        if version == self.version or not any(map(has_several_files, self.splits.values())):
            return self
        older = DataRecord(self.splits, self.config)
        older.version = version
        return older

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return next(iter(self.splits.values())).classes

    @cached_property
    def sizes(self) -> dict[str, np.ndarray]:
        """Bytes of the files of every split, _NO_SIZE where there is none."""
        measure = measure_file if self.version == 1 else measure_item
        with ThreadPoolExecutor(_THREADS) as pool:
            return {split: _measure(dataset, pool, measure) for split, dataset in self.splits.items()}

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the items of every split in their order."""
        return {split: digest for split, (digest, _) in self._sums.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the classes and of all items, of test and of the others, in whatever order they come.

        It does not depend on how a protocol divides the others, so that rows on the same data have the same.
        """
        parts = ["trainval"] if "trainval" in self.splits else ["train", "val"]
        sums = [sum(self._sums[part][1] for part in group if part in self._sums) for group in (parts, ["test"])]
        content = [self.classes, *(f"{number % _SUMS:x}" for number in sums)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def _sums(self) -> dict[str, tuple[str, int]]:
        return {split: _digest(self._lines(split)) for split in self.splits}

    def items(self, split: str) -> Iterator[Item]:
        """List the items of `split` in their order."""
        dataset, base = self.splits[split], self.config.base()
        folder = None if base is None else str(base)
        for source, size in enumerate(self.sizes[split].tolist()):
            label = dataset.recorded_label(dataset.first_item(source))
            yield Item(name_item(dataset, source, folder), label, None if size == _NO_SIZE else size)

    def write(self, path: Path) -> None:
        """Write data.json: the file is either the old or the complete new one."""
        joined = self._is_joined()
        head = {
            "version": self.version,
            "digest": self.digest,
            "classes": self.classes,
            "splits": {
                split: {"items": len(self.sizes[split]), "digest": digest}
                | ({"of": ["train", "val"]} if joined and split == "trainval" else {})
                for split, digest in self.digests.items()
            },
        }
        with replacing(path) as file:
            file.write(json.dumps(head)[:-1].encode())
            for split in self.splits:
                if "of" not in head["splits"][split]:
                    file.write(f",\n{json.dumps(split)}: [\n".encode())
                    file.writelines(block.encode() for block in _separate(self._lines(split)))
                    file.write(b"\n]")
            file.write(b"\n}\n")

    def _lines(self, split: str) -> Iterator[str]:
        for name, label, size in self.items(split):
            yield f"[{encode_basestring_ascii(name)}, {label}, {'null' if size is None else size}]"

    def _is_joined(self) -> bool:
        """Whether trainval is train with val behind it, and need not be written again."""
        if not {"train", "val", "trainval"} <= self.splits.keys():
            return False
        both = (line for split in ("train", "val") for line in self._lines(split))
        return _digest(both)[0] == self.digests["trainval"]


def name_item(dataset: ImageDataset, source: int, folder: str | None) -> str:
    """Name image or video number `source` of a split as data.json does: its path below `folder`, the root."""
    item = dataset.first_item(source)
    return name_below(dataset.file(item) or dataset.path(item), folder)


def name_wrong(
    dataset: ImageDataset, config: DataConfig, answers: Iterable[tuple[int, str, str, float]]
) -> list[dict[str, Any]]:
    """Write wrong answers (number of the item, truth, answer, confidence) as a row holds them, by the items' names."""
    base = config.base()
    folder = None if base is None else str(base)
    return [
        {
            "item": printable(name_item(dataset, item, folder)),
            "true": printable(truth),
            "answered": printable(answer),
            "confidence": round(sure, 6),
        }
        for item, truth, answer, sure in answers
    ]


def _measure(
    dataset: ImageDataset, pool: ThreadPoolExecutor, measure: Callable[[ImageDataset, int], int | None]
) -> np.ndarray:
    """Measure every image or video of a split."""
    count = dataset.count_sources()

    def measure_some(start: int) -> np.ndarray:
        items = map(dataset.first_item, range(start, min(start + _AT_ONCE, count)))
        sizes = (measure(dataset, item) for item in items)
        return np.array([_NO_SIZE if size is None else size for size in sizes], dtype=np.int64)

    return np.concatenate([np.empty(0, np.int64), *pool.map(measure_some, range(0, count, _AT_ONCE))])


def _digest(lines: Iterable[str]) -> tuple[str, int]:
    """Return the SHA-256 of lines in their order, and the sum of those of each."""
    digest, total = hashlib.sha256(), 0
    for line in lines:
        content = line.encode()
        digest.update(content + b"\n")
        total += int.from_bytes(hashlib.sha256(content).digest(), "big")
    return digest.hexdigest(), total


def _separate(lines: Iterator[str]) -> Iterator[str]:
    """Put a comma and the end of the line between lines."""
    yield next(lines, "")
    while block := list(islice(lines, _AT_ONCE)):
        yield "".join(f",\n{line}" for line in block)
