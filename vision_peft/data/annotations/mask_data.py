"""What datasets of images with masks have in common, however the files lie."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.mask_folders import MaskItems, list_names, pair, read_names
from vision_peft.data.annotations.mask_layout import find_layout, list_absent
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.band_statistics import Bands
from vision_peft.data.decoding.image_kinds import EXTENSIONS
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.decoding.mask_dataset import MaskFiles
from vision_peft.data.decoding.masks import MaskReading
from vision_peft.data.problems import raise_problems


@dataclass(frozen=True, kw_only=True)
class MaskData(DataConfig):
    """Images with a mask each.

    A family says where they are (`find_items`) and what the masks say (`find_reading`). Where it finds no val split,
    `val_fraction` of train is drawn by the names of the images and `seed`.
    """

    root: str | None = None
    val_fraction: float = 0.1
    seed: int = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)

    @abstractmethod
    def find_items(self, root: Path, problems: list[str]) -> MaskItems:
        """Return the items of every split that the data has, all of them with a mask."""

    @abstractmethod
    def find_reading(self, root: Path, items: MaskItems, problems: list[str]) -> MaskReading:
        """Return what the values of the masks stand for."""

    def find_bands(self, items: MaskItems) -> Bands | None:
        """Return how images that are not RGB are read."""
        return None

    def load(self, split: str) -> ImageDataset:
        """Load the images and masks of `split`; raises one ValueError with every problem of names and lists."""
        check_split(split)
        return self.open_splits()(split)

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        root = find_root(self.root, self.name)
        found: list[str] = []
        items = self.find_items(root, found)
        reading = self.find_reading(root, items, found)
        if problems is None:
            raise_problems(f"data={self.name} data.root={self.root}", found)
        else:
            problems += found
        if "val" not in items.splits:
            items.draw("train", {"val": self.val_fraction}, self.seed, str(root))

        bands = self.find_bands(items)

        def load(split: str) -> ImageDataset:
            check_split(split)
            if split not in (*items.splits, "trainval"):
                raise FileNotFoundError(f"{root} has no {split} split: give a list or a folder of it")
            return MaskFiles(*items.pairs(split), reading, bands, max_pixels=self.max_pixels)

        return load


@dataclass(frozen=True, kw_only=True)
class MaskFolders(MaskData):
    """Images and masks in two folders, by the same names, with lists of the splits or a folder for each.

    `ROOT/images`, `ROOT/masks` and lists `ROOT/splits/{train,val,test}.txt` of names (with or without extension), one
    a line; or split folders, in these two or around them (`split_names.py`). Without either, test and val are drawn.
    """

    images: str = "images"
    masks: str = "masks"
    splits: str = "splits"
    mask_suffix: str = ""
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("test_fraction", self.test_fraction)

    @property
    def extensions(self) -> frozenset[str]:
        """Endings of the names of images, in lower case."""
        return EXTENSIONS

    def find_items(self, root: Path, problems: list[str]) -> MaskItems:
        layout = find_layout(root, self.images, self.masks, self.splits, self.extensions)
        items = MaskItems({}, {})
        for part, (images, masks) in layout.folders.items():
            ahead = f"{part}/" if part else ""
            named = list_names(images, problems, extensions=self.extensions)
            masked = list_names(masks, problems, self.mask_suffix, "mask")
            items.images |= {ahead + name: path for name, path in named.items()}
            items.masks |= {ahead + name: path for name, path in masked.items()}
            items.splits[part] = [ahead + name for name in named]
        if not items.images:
            problems.append(f"{root}: no images in {', '.join(str(images) for images, _ in layout.folders.values())}")
        problems += list_absent(layout, root, self.splits)
        whole = items.splits.pop("", [])
        for part, file in layout.lists.items():
            items.splits[part] = list(read_names(file, items.images, problems))
        if whole and not layout.lists:
            items.splits["train"] = whole
            items.draw("train", {"test": self.test_fraction, "val": self.val_fraction}, self.seed, str(root))
        items.splits.setdefault("train", [])
        problems += find_shared(items)
        pair(items, {"masks": next(iter(layout.folders.values()))[1]}, problems)
        return items


def find_shared(items: MaskItems) -> list[str]:
    """Describe the images that two splits have."""
    first: dict[str, str] = {}
    found = []
    for split, names in items.splits.items():
        for name in names:
            if (other := first.setdefault(name, split)) != split:
                found.append(f"{items.images[name]} is in {other} and in {split}")
    return found
