"""Tar shards in WebDataset's layout: files that share a name up to its first dot are a sample: `17.jpg`, `17.cls`.

https://github.com/webdataset/webdataset, whose ShardWriter writes such shards. They are read in place: an index of the
headers, made when the data is loaded, says where each image lies. So there is an order of all samples, any of them can
be read, and a training resumes exactly, which a stream of shards does not allow. Nothing is unpacked, no pickle is
read: images and labels (`.cls`, text, or a field of `.json`) are all that is looked at.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.labelled_parts import LabelledParts, find_classes
from vision_peft.data.annotations.list_files import read_class_names
from vision_peft.data.annotations.shard_index import ShardIndex, index_shard
from vision_peft.data.annotations.shard_names import Shards, expand_patterns, find_shards
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.deep_grey import check_value_range, choose_few, warn_of_deep_grey_in
from vision_peft.data.decoding.encoded_images import EncodedImages
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.flat_arrays import TextArray
from vision_peft.data.item_names import name_below
from vision_peft.data.problems import raise_problems
from vision_peft.printable import name_some, warn
from vision_peft.safe_files import open_regular

_NAMED = 5  # shards that a warning names
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
        return "val" not in self._list_shards(find_root(self.root, self.name)).of

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; one ValueError names every problem of all shards, with shard and key."""
        check_split(split)
        return self.open_splits()(split)

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        """Index the shards once for all splits; errors are those of `load`."""
        root, problems = find_root(self.root, self.name), list[str]()
        shards, unread = self._list_shards(root)
        if unread:
            warn(
                f"data.root={self.root}: {len(unread):,} shard{'s' * (len(unread) > 1)} left out, as no name says the "
                f"split ({name_some(unread, _NAMED)}): name all of them with data.train=, data.val= and data.test=",
                stacklevel=2,
            )
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

    def _list_shards(self, root: Path) -> Shards:
        """List the shards of every split that has some."""
        if self.train:
            return expand_patterns(root, {"train": self.train, "val": self.val, "test": self.test})
        return find_shards(root, f"data.root={self.root}")


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
