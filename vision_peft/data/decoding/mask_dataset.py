"""A dataset of image files with a mask file each: an item is `(image, mask)`, the mask in place of a label."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from vision_peft.data.decoding.band_files import draw_bands, read_image_header
from vision_peft.data.decoding.band_statistics import Bands
from vision_peft.data.decoding.bands import read_bands
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.image_values import read_palette
from vision_peft.data.decoding.images import ImageDecodeError, ImageHeader, read_header
from vision_peft.data.decoding.masks import MaskReading
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.targets import Targets
from vision_peft.data.transforms.masks import JointTransform, as_picture, eval_masks, train_masks
from vision_peft.printable import name_some, warn

_THREADS = 16
_BATCH = 8  # images of one size that are evaluated at once


class MaskScan(NamedTuple):
    """What a mask holds."""

    counts: list[int]  # pixels of each class
    problem: str | None


class MaskFiles(ImageFiles):
    """Images and masks decoded from files on every access.

    Every label is 0: what is to be learnt is the mask, which `__getitem__` gives in its place (int64 H W numbers of
    classes, 255 where a pixel does not count; of depths float32, 0 where there is none). Without a transform an item
    is the PIL image and the mask as it is stored.

    Args:
        paths: one file an image.
        masks: one file an image, of the same size.
        reading: what the values of masks stand for.
        bands: how images that are not RGB are read.
        **options: as of `ImageFiles`.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        masks: Iterable[str | Path],
        reading: MaskReading,
        bands: Bands | None = None,
        **options: Any,
    ) -> None:
        images = TextArray.of(map(str, paths))
        super().__init__(images, [0] * len(images), list(reading.classes) or ["depth"], **options)
        self.targets = Targets("segmentation" if reading.classes else "depth", unit="" if reading.classes else "m")
        self.bands = bands
        self.masks, self.reading = TextArray.of(map(str, masks)), reading
        if len(self.masks) != len(self.paths):
            raise ValueError(f"wanted a mask for each image, got {len(self.masks)} of {len(self.paths)} images")
        self.eval_batch_size = _BATCH  # pyright: ignore[reportAttributeAccessIssue]  of one process
        self._store: Store | None = None

    def image(self, index: int) -> Any:
        return super().image(index) if self.bands is None else read_bands(self.paths[index], self.bands.form)

    def picture(self, index: int) -> Image.Image:
        return super().picture(index) if self.bands is None else draw_bands(self.image(index), self.bands.show)

    def header(self, index: int) -> ImageHeader:
        return super().header(index) if self.bands is None else read_image_header(self.paths[index], self.bands.form)

    def count_pixels(self, index: int) -> int:
        return super().count_pixels(index) if self.bands is None else math.prod(self.header(index).size)

    def mask(self, index: int) -> np.ndarray:
        """Return the mask (H W) of item `index`, before any transform."""
        return self.reading.read(self.masks[index], self.max_pixels)

    def set_training(
        self, settings: Mapping[str, Any], augment: str, random_erasing: float, clip_place: str = "random"
    ) -> None:
        self.transform: Any = train_masks(settings, augment, random_erasing, self.reading.padding)

    def set_evaluation(self, settings: Mapping[str, Any]) -> None:
        self.transform = eval_masks(settings)
        one_size = len({size for size in self.sizes if size is not None}) < 2  # masks keep their sizes
        self.eval_batch_size = _BATCH if one_size else 1  # pyright: ignore[reportAttributeAccessIssue]

    def subset(self, items: Sequence[int]) -> "MaskFiles":
        part = copy.copy(self)
        part.paths, part.labels = self.paths.take(items), IntArray(self.labels).take(items)
        part.masks, part.transform, part._store = self.masks.take(items), None, None
        for name in ("sizes", "scans"):
            vars(part).pop(name, None)
        return part

    def recorded_label(self, index: int) -> int:
        """Return the bytes of the mask file, by which data.json sees that another one took its place."""
        try:
            return Path(self.masks[index]).stat().st_size
        except OSError:
            return 0

    def check(self, index: int, decode: bool) -> None:
        if decode:
            self.image(index)
        else:
            self.header(index)
        if not Path(self.masks[index]).is_file():
            raise ImageDecodeError(self.masks[index], "the mask is missing")

    @cached_property
    def sizes(self) -> list[tuple[int, int] | None]:
        """Width and height of every mask by its header; None: it cannot be read."""

        def look(path: str) -> tuple[int, int] | None:
            try:
                return read_header(path, max_pixels=self.max_pixels).size
            except ImageDecodeError:
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            return [*pool.map(look, self.masks)]

    @cached_property
    def scans(self) -> list[MaskScan]:
        """What every mask holds, all of them read whole."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return [*pool.map(self._scan, range(len(self)))]

    def count_labels(self) -> list[int]:
        """Count the pixels of every class in all masks."""
        counts = np.array([scan.counts for scan in self.scans], dtype=np.int64)
        return counts.sum(0).tolist()

    def count_images(self) -> list[int]:
        """Count the images that show each class; of depths there are none."""
        if not self.reading.classes:
            return []
        return (np.array([scan.counts for scan in self.scans], dtype=np.int64) > 0).sum(0).tolist()

    def list_mask_problems(self) -> Iterator[str]:
        """Describe masks of another size than their image, of values that stand for nothing, or of nothing at all."""
        yield from (scan.problem for scan in self.scans if scan.problem)

    def palette(self) -> list[tuple[int, int, int]] | None:
        """Return the colours that the first mask gives its numbers, None where it has none."""
        try:
            return read_palette(self.masks[0], max_pixels=self.max_pixels) if len(self.masks) else None
        except ImageDecodeError:
            return None

    def decoded_size(self) -> int:
        pixels = sum(width * height for width, height in filter(None, self.sizes))
        size = self.bytes_per_pixel
        image = len(self) * size * np.prod(self._fixed.size).item() if self._fixed else size * pixels
        return int(image) + pixels * (4 if not self.reading.classes else 1)

    def keep_in(self, store: Store) -> None:
        self._store, self.in_memory = store, self._fixed is not None

    @property
    def is_kept(self) -> bool:
        return self._store is not None

    def prepare(self) -> None:
        if self._store is None:
            return
        missing = [index for index in range(len(self)) if self._key(index) not in self._store.kept]
        with ThreadPoolExecutor(_THREADS) as pool:
            for index, pair in zip(missing, pool.map(self._decode, missing), strict=True):
                if pair is None:
                    continue
                if not self._store.keep(self._key(index), pair[0]):
                    break
                self._store.keep(("mask", self.masks[index]), pair[1])

    def label_tensor(self) -> torch.Tensor:
        """Return all masks, N H W, of classes in 8 bits."""
        assert isinstance(self.transform, JointTransform)
        with ThreadPoolExecutor(_THREADS) as pool:
            return torch.stack([*pool.map(lambda index: self.transform.fit_mask(self.mask(index)), range(len(self)))])

    def label_bytes(self) -> int | None:
        if not isinstance(self.transform, JointTransform) or self.transform.steps:
            return None
        sizes = {self._fixed.size} if self.transform.fits_mask else {size for size in self.sizes if size is not None}
        width, height = next(iter(sizes), (0, 0))
        return width * height * len(self) * (1 if self.reading.classes else 4) if len(sizes) == 1 else None

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if self.transform is None:
            return self.image(index), torch.from_numpy(np.array(self.mask(index)))
        kept = {} if self._store is None else self._store.kept
        pixels, mask = kept.get(self._key(index)), kept.get(("mask", self.masks[index]))
        mask = self.mask(index) if mask is None else mask
        if pixels is None:
            return self.transform(self.image(index), mask)
        return self.transform.rest(as_picture(pixels), mask)

    @property
    def _fixed(self) -> Any:
        return self.transform.fixed if isinstance(self.transform, JointTransform) else None

    def _key(self, index: int) -> Any:
        return self._fixed, self.paths[index]

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            image = self.image(index)
            return np.asarray(image if self._fixed is None else self._fixed(image)), self.mask(index)
        except ImageDecodeError:
            return None  # raised again, and dealt with, where the item is asked for

    def _scan(self, index: int) -> MaskScan:
        nothing, path = [0] * max(len(self.reading.classes), 1), self.masks[index]
        try:
            mask, header = self.mask(index), self.header(index)
        except ImageDecodeError as error:
            return MaskScan(nothing, f"{error.path}: {error.cause}")
        width, height = header.size
        if mask.shape != (height, width):
            mine = f"{mask.shape[1]} x {mask.shape[0]}"
            return MaskScan(nothing, f"{path}: the mask has {mine} pixels, {self.paths[index]} {width} x {height}")
        counts = self.reading.count(mask).tolist()
        return MaskScan(counts, None if any(counts) else f"{path}: no pixel of the mask counts, all are to be ignored")


def list_mask_problems(splits: Mapping[str, Any]) -> Iterator[str]:
    """Describe what is wrong with the masks of all splits; warn of classes that no pixel to train on is of."""
    for split, dataset in splits.items():
        if isinstance(dataset, MaskFiles):
            yield from (f"{split}: {problem}" for problem in dataset.list_mask_problems())
    trained = splits.get("train", splits.get("trainval"))
    if isinstance(trained, MaskFiles) and trained.reading.classes:
        counts = zip(trained.classes, trained.count_labels(), strict=True)
        if unseen := [name for name, count in counts if not count]:
            few = f"{len(unseen)} of {len(trained.classes)} classes: {name_some(unseen)}"
            warn(f"no pixel of the training masks belongs to {few}", stacklevel=2)
