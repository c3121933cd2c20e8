"""Images with a mask each that gives every pixel a class: `ROOT/images`, `ROOT/masks`, lists of the splits.

The values of a mask (the indices of a palette, not its colours; grey values; of an RGB image the colours) are the
numbers of the classes in their order, or what `values` says: `{7: road, 8: sidewalk, 0/0/142: car, 0: ignore}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vision_peft.data.annotations.list_files import read_class_names
from vision_peft.data.annotations.mask_data import MaskFolders
from vision_peft.data.annotations.mask_folders import MaskItems
from vision_peft.data.annotations.mask_values import read_values
from vision_peft.data.decoding.band_files import BandOptions
from vision_peft.data.decoding.band_statistics import Bands
from vision_peft.data.decoding.bands import ARRAY_EXTENSIONS
from vision_peft.data.decoding.image_kinds import EXTENSIONS
from vision_peft.data.decoding.masks import IGNORE, MOST_CLASSES, ClassMasks

CLASSES = "classes.txt"


@dataclass(frozen=True, kw_only=True)
class Segmentation(BandOptions, MaskFolders):
    """Masks of classes. Their names are those of `classes`, a file with one a line, or else those in `values`."""

    name: ClassVar[str] = "segmentation"
    classes: str | None = None
    values: Any = None
    ignore: int = IGNORE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_bands("full", exif_rotation=False)
        if self.stack:
            raise ValueError("data.stack does not work with masks: write the bands of an image into one file")
        if self.values is not None:
            if not isinstance(self.values, Mapping | tuple | list):
                raise ValueError(f"data.values must be keys and values such as {{7: road}}; got {self.values!r}")
            pairs = self.values.items() if isinstance(self.values, Mapping) else self.values
            object.__setattr__(self, "values", tuple((str(value), str(name)) for value, name in pairs))
            read_values(self.values, None)

    @property
    def extensions(self) -> frozenset[str]:
        return EXTENSIONS if self.channels is None else EXTENSIONS | ARRAY_EXTENSIONS

    def find_bands(self, items: MaskItems) -> Bands | None:
        return self.describe_bands(items.pairs("train")[0], "full", self.max_pixels)

    def find_reading(self, root: Path, items: MaskItems, problems: list[str]) -> ClassMasks:
        file = root / (self.classes or CLASSES)
        names = read_class_names(file, problems) if file.is_file() else []
        if self.classes and not file.is_file():
            raise FileNotFoundError(f"data.classes={self.classes}: there is no file {file}")
        if self.values is None:
            if not names:
                raise FileNotFoundError(
                    f"there is no file {file} with the names of the classes, one a line in their order: write it, or "
                    "give data.values={0: sky, 1: road} with the name of each value"
                )
            classes, values = names, None
        else:
            classes, values = read_values(self.values, names or None)
        if len(classes) > MOST_CLASSES:
            problems.append(f"{file}: {len(classes)} classes, wanted at most {MOST_CLASSES}")
        return ClassMasks(classes, values, self.ignore)
