"""Datasets of image files."""

import copy
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import (
    MAX_PIXELS,
    ImageHeader,
    ValueRange,
    check_start,
    decode_image,
    read_header,
    read_pixel_count,
)
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.targets import Targets


class ImageFiles(ImageDataset):
    """Images decoded from files on every access.

    Args:
        paths: one file an image.
        labels: the number of its class, from 0, or of a row of `targets`.
        classes: their names.
        targets: what labels stand for, where that is not a class each.
        max_pixels: width x height beyond which a file is refused, by its header.
        exif_rotation: turn images as their EXIF orientation says; the published benchmarks do not.
        value_range: which values become 0 and 255 where greyscale has more than 8 bits, see `images.py`.

    Raises:
        ValueError: not one label an image, or a label that is not the number of a class.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        labels: Iterable[int],
        classes: Sequence[str],
        *,
        max_pixels: int = MAX_PIXELS,
        exif_rotation: bool = False,
        value_range: ValueRange = "full",
        targets: Targets | None = None,
    ) -> None:
        super().__init__(classes, labels, targets)
        self.paths = TextArray.of(paths if isinstance(paths, TextArray) else map(str, paths))
        if len(self.paths) != len(self.labels):
            raise ValueError(f"wanted a label for each image, got {len(self.labels)} of {len(self.paths)} images")
        numbers = np.asarray(self.labels)
        low, high = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, -1)
        table = None if targets is None else targets.values
        count, what = (len(self.classes), "classes") if table is None else (len(table), "targets")
        if low < 0 or high >= count:
            wrong = low if low < 0 else high
            raise ValueError(f"labels number the {count} {what} from 0: {wrong} is not one of them")
        self.max_pixels = max_pixels
        self.exif_rotation = exif_rotation
        self.value_range: ValueRange = value_range

    def image(self, index: int) -> Any:
        return decode_image(
            self.paths[index],
            max_pixels=self.max_pixels,
            exif_rotation=self.exif_rotation,
            value_range=self.value_range,
        )

    def path(self, index: int) -> str:
        return self.paths[index]

    def file(self, index: int) -> str:
        return self.paths[index]

    def check(self, index: int, decode: bool) -> None:
        if decode:
            self.image(index)
        elif type(self) is ImageFiles:  # what inherits from this may find its images elsewhere
            check_start(self.paths[index], max_pixels=self.max_pixels)

    def subset(self, items: Sequence[int]) -> "ImageFiles":
        part = copy.copy(self)
        part.paths, part.labels = self.paths.take(items), IntArray(self.labels).take(items)
        part.transform = None
        return part

    def key(self, index: int) -> Hashable:
        # what inherits from this may do something else to the same file
        return self.paths[index] if type(self) is ImageFiles else super().key(index)

    def count_pixels(self, index: int) -> int:
        return read_pixel_count(self.paths[index], max_pixels=self.max_pixels)

    def header(self, index: int) -> ImageHeader:
        """Return what the file's header says, with orientation 1 where `exif_rotation` turns the image upright."""
        header = read_header(self.paths[index], max_pixels=self.max_pixels)
        return header._replace(orientation=1) if self.exif_rotation else header
