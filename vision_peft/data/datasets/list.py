"""List files, the users' own: `path label` a line, or cells of a csv or tsv file with or without a header.

Text is read as the lists of VTAB and of AdaptFormer are, but a path may hold spaces; see `list_lines.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.split_lists import SplitLists, check_target
from vision_peft.data.annotations.stack_check import StackCheck
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.band_files import BandFiles, BandOptions
from vision_peft.data.decoding.deep_grey import check_value_range, warn_of_deep_grey
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class ImageLists(BandOptions, DataConfig):
    """Images named by list files below `root`, with integer labels from 0 or class names.

    The first label of train says which of the two it is. The classes are the names of the file `classes` or else, for
    integers, 0 to the largest of train and val, for names, those of train in the order of `sorted`. Without a val list
    `seed` draws `val_fraction` of train by the names of the files; trainval is train and val together. With `channels`
    images have any number of bands, see `bands.py`.
    """

    name: ClassVar[str] = "list"
    root: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    classes: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.0
    seed: int = 0
    allow_absolute: bool = False
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False
    value_range: str | tuple[float, float] = "full"
    task_kind: str = "auto"
    target: str | tuple[str, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)
        if self.test_fraction:
            check_fraction("test_fraction", self.test_fraction)
            if self.val_fraction + self.test_fraction >= 1:
                raise ValueError("data.val_fraction and data.test_fraction leave nothing for train")
        check_target(self.task_kind, self.target)
        check_value_range(self.value_range)
        self.check_bands(self.value_range, self.exif_rotation)

    def draws_by_name(self) -> bool:
        return not self.val or bool(self.test_fraction and not self.test)

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; one ValueError names every problem of all the lists, with file and line."""
        check_split(split)
        return self.open_splits()(split)

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        root = find_root(self.root, self.name)
        files = self.train, self.val, self.test, self.classes
        target = (self.target,) if isinstance(self.target, str) else self.target
        drawn = self.val_fraction, self.seed
        lists = SplitLists(self.name, root, *files, *drawn, self.task_kind, target, self.unit, self.test_fraction)
        images = StackCheck(root, self.stack, not self.allow_absolute, " (data.allow_absolute=true lets it)")
        items = lists.read(images, problems)
        bands = self.describe_bands(items.paths.take(items.parts["train"]), self.value_range, self.max_pixels)
        if bands is None:
            warn_of_deep_grey(items.paths, str(self.root), self.value_range, self.max_pixels)

        def load(split: str) -> ImageDataset:
            check_split(split)
            paths, labels = lists.take(items, split, images.what)
            if bands is not None:
                return BandFiles(paths, labels, items.classes, bands, items.targets)
            return ImageFiles(
                paths,
                labels,
                items.classes,
                max_pixels=self.max_pixels,
                exif_rotation=self.exif_rotation,
                value_range=self.value_range,
                targets=items.targets,
            )

        return load
