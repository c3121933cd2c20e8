"""ADE20K, scene parsing benchmark: 20,210 images to train on and 2,000 to validate, 150 classes.

Zhou et al., CVPR 2017, http://sceneparsing.csail.mit.edu. The official archive unpacks to `ADEChallengeData2016` with
`images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png` (grey: 1 to 150 for the classes, 0 for
all else, which does not count) and `objectInfo150.txt`, whose last column names the classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.list_files import read_lines
from vision_peft.data.annotations.mask_folders import MaskItems, list_names
from vision_peft.data.annotations.official_masks import OfficialMasks, find_base
from vision_peft.data.decoding.masks import ClassMasks

NUM_CLASSES = 150
NAMES = "objectInfo150.txt"
HALVES = {"train": "training", "test": "validation"}
_BASE = ("ADEChallengeData2016",)


@dataclass(frozen=True, kw_only=True)
class Ade20k(OfficialMasks):
    """ADE20K with its 150 classes."""

    name: ClassVar[str] = "ade20k"

    def find_halves(self, root: Path, problems: list[str]) -> MaskItems:
        base, items = find_base(root, _BASE, ("images/training", "annotations/training")), MaskItems({}, {})
        for split, part in HALVES.items():
            named = list_names(base / "images" / part, problems)
            masked = list_names(base / "annotations" / part, problems, what="mask")
            items.images |= {f"{part}/{name}": path for name, path in named.items()}
            items.masks |= {f"{part}/{name}": path for name, path in masked.items()}
            items.splits[split] = [f"{part}/{name}" for name in named]
        return items

    def find_reading(self, root: Path, items: MaskItems, problems: list[str]) -> ClassMasks:
        file = find_base(root, _BASE, ("images/training",)) / NAMES
        classes = [str(number) for number in range(1, NUM_CLASSES + 1)]
        if file.is_file():
            rows = [line.split("\t") for line in read_lines(file, problems) if line.strip()]
            named = [row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdecimal()]
            if len(named) == NUM_CLASSES:
                classes = named if len(set(named)) == NUM_CLASSES else _tell_apart(named)
            else:
                problems.append(f"{file}: names {len(named)} classes, wanted {NUM_CLASSES}")
        return ClassMasks(classes, {value: value - 1 for value in range(1, NUM_CLASSES + 1)}, ignore=0)


def _tell_apart(names: list[str]) -> list[str]:
    """Give classes that share a first word their number."""
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, start=1)]
