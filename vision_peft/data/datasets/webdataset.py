"""Tar shards in WebDataset's layout: files that share a name up to its first dot are a sample: `17.jpg`, `17.cls`.

https://github.com/webdataset/webdataset, whose ShardWriter writes such shards. They are read in place: an index of the
headers, made when the data is loaded, says where each image lies. So there is an order of all samples, any of them can
be read, and a training resumes exactly, which a stream of shards does not allow. Nothing is unpacked, no pickle is
read: images and labels (`.cls`, text, or a field of `.json`) are all that is looked at.
"""

import functools
import glob
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.labelled_parts import LabelledParts, find_classes
from vision_peft.data.annotations.list_files import read_class_names
from vision_peft.data.annotations.shard_index import ShardIndex, index_shard
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.deep_grey import check_value_range, choose_few, warn_of_deep_grey_in
from vision_peft.data.decoding.encoded_images import EncodedImages
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.flat_arrays import TextArray
from vision_peft.data.item_names import name_below
from vision_peft.data.problems import raise_problems
from vision_peft.safe_files import open_regular

_PART = re.compile(
    r"(train|val(?:id(?:ation)?)?|test)(?![a-z])", re.IGNORECASE
)  # that a shard or its folder starts with
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class WebDataset(DataConfig):
    """Shards below `root`; patterns name those of a split: `train-{000..146}.tar`, `val/*.tar`, several with `::`.

    Without patterns the names say it: shards whose name, or that of their folder, starts with train, val or test; where
    there are none, all are train. Splits that are not there are drawn by the names of the samples and `seed`.
    """

    name: ClassVar[str] = "webdataset"
    root: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    image: str | None = None
    label: str | None = None
    json_field: str = "label"
    classes: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False
    value_range: str | tuple[float, float] = "full"

    def __post_init__(self) -> None:
        check_value_range(self.value_range)
        for name in ("val_fraction", "test_fraction"):
            check_fraction(name, getattr(self, name))
        if not self.train and (self.val or self.test):
            raise ValueError("data.val and data.test name shards: give data.train=PATTERN too")

    def draws_by_name(self) -> bool:
        return "val" not in self._list_shards(find_root(self.root, self.name))

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; one ValueError names every problem of all shards, with shard and key."""
        check_split(split)
        return self.open_splits()(split)

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        """Index the shards once for all splits; errors are those of `load`."""
        root, problems = find_root(self.root, self.name), list[str]()
        shards = self._list_shards(root)
        read = functools.partial(index_shard, image=self.image, label=self.label, json_field=self.json_field)
        with ThreadPoolExecutor(_THREADS) as pool:
            indices = {part: [*pool.map(read, paths)] for part, paths in shards.items()}
        problems += [problem for found in indices.values() for index in found for problem in index.problems]
        empty = [part for part, found in indices.items() if not any(index.names or index.problems for index in found)]
        problems += [f"{root}: no sample in the shards of {part}" for part in empty]
        given = read_class_names(root / self.classes, problems) if self.classes else []
        raise_problems(f"data={self.name} data.root={self.root}", problems)
        names = {part: [name for index in found for name in index.names] for part, found in indices.items()}
        values = {part: [value for index in found for value in index.values] for part, found in indices.items()}
        classes, labels = find_classes(values, names, given, str(root))
        drawn = {part: [name_below(name, str(root)) for name in found] for part, found in names.items()}
        parts = LabelledParts(drawn, labels, self.val_fraction, self.test_fraction, self.seed, str(root))

        def take(halves: Sequence[tuple[str, Sequence[int]]]) -> ShardImages:
            return ShardImages(
                [indices[part] for part, _ in halves],
                [items for _, items in halves],
                [labels[part][item] for part, items in halves for item in items],
                classes,
                max_pixels=self.max_pixels,
                exif_rotation=self.exif_rotation,
                value_range=self.value_range,
            )

        few = take([("train", choose_few(len(names["train"])))])
        warn_of_deep_grey_in(few.yield_few(), f"data.root={self.root}", self.value_range, self.max_pixels)
        return lambda split: take(parts.find(split, classes))

    def _list_shards(self, root: Path) -> dict[str, list[str]]:
        """List the shards of every split that has some."""
        given = {"train": self.train, "val": self.val, "test": self.test}
        if self.train:
            return {part: _expand(root, part, pattern) for part, pattern in given.items() if pattern}
        found: dict[str, list[str]] = {}
        everything = sorted(str(path) for path in root.rglob("*.tar"))
        for path in everything:
            below = Path(path).relative_to(root)
            if named := _PART.match(below.name) or _PART.match(below.parts[0]):
                word = named[1].lower()
                found.setdefault("val" if word.startswith("val") else word, []).append(path)
        if not everything:
            raise FileNotFoundError(f"data.root={self.root} holds no shards (*.tar)")
        if found and "train" not in found:
            raise FileNotFoundError(
                f"data.root={self.root} holds no shards of train: name them with data.train=PATTERN"
            )
        return {part: found[part] for part in given if part in found} or {"train": everything}


class ShardImages(EncodedImages):
    """Images read from shards on every access; an item is named `SHARD/KEY.EXTENSION`."""

    def __init__(
        self,
        indices: Sequence[Sequence[ShardIndex]],
        items: Sequence[Sequence[int]],
        labels: Sequence[int],
        classes: Sequence[str],
        **options: Any,
    ) -> None:
        super().__init__(labels, classes, **options)
        self.shards = [index.path for part in indices for index in part]
        chosen, named, first = [np.empty((0, 3), np.int64)], list[str](), 0
        for part, wanted in zip(indices, items, strict=True):
            names = [name for index in part for name in index.names]
            rows = [(number, *place) for number, index in enumerate(part, first) for place in index.places]
            named += [names[item] for item in wanted]
            chosen.append(np.array(rows, np.int64).reshape(-1, 3)[list(wanted)])
            first += len(part)
        self.places = np.concatenate(chosen)  # N x (shard, offset, size)
        self.names = TextArray.of(named)

    def path(self, index: int) -> str:
        return self.names[index]

    def stored_size(self, index: int) -> int:
        return int(self.places[index, 2])

    def read(self, index: int, most: int | None = None) -> bytes:
        shard, offset, size = self.places[index].tolist()
        size = size if most is None else min(size, most)
        with open_regular(Path(self.shards[shard])) as file:
            content = os.pread(file.fileno(), size, offset)
        if len(content) < size:
            raise ValueError("its shard is shorter than when it was opened")
        return content


def _expand(root: Path, part: str, patterns: str) -> list[str]:
    """List the shards that the patterns of a split name, in the order of the patterns."""
    found: list[str] = []
    for pattern in patterns.split("::"):
        ranges = [_count(first, last) for first, last in _RANGE.findall(pattern)]
        pieces = _RANGE.sub("\0", pattern).split("\0")
        for numbers in product(*ranges):
            filled = pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))
            shard = os.path.join(root, Path(filled).expanduser())  # noqa: PTH118
            paths = sorted(glob.glob(shard)) if glob.has_magic(filled) else [shard] * Path(shard).is_file()  # noqa: PTH207
            if not paths:
                raise FileNotFoundError(f"data.{part}={patterns}: there is no shard {shard}")
            found += paths
    return found


def _count(first: str, last: str) -> list[str]:
    """List the numbers of a range in braces, as long as they are written there."""
    if not int(first) <= int(last) < int(first) + 10**6:
        raise ValueError(f"wanted {{first..last}} with at most a million numbers, got {{{first}..{last}}}")
    return [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
