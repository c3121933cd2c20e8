"""Cityscapes: 2,975 images of streets to train on and 500 to validate, 19 classes.

Cordts et al., CVPR 2016, https://www.cityscapes-dataset.com. The official archives unpack to
`leftImg8bit/{train,val}/<city>/<name>_leftImg8bit.png` and `gtFine/{train,val}/<city>/<name>_gtFine_labelIds.png`. A
label id becomes one of the 19 classes that are evaluated, as in the official table of train ids
(mcordts/cityscapesScripts, cityscapesscripts/helpers/labels.py); all other ids do not count.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.mask_folders import MaskItems, list_names
from vision_peft.data.annotations.official_masks import OfficialMasks, find_base
from vision_peft.data.decoding.masks import IGNORE, ClassMasks

IDS = {  # of the classes that are evaluated, in the order of their train ids
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
LAST_ID = 33
PLATE = 65535  # -1, of a licence plate, in 16 bits


@dataclass(frozen=True, kw_only=True)
class Cityscapes(OfficialMasks):
    """Cityscapes with its 19 classes; `masks` is `gtCoarse` for the coarse ones."""

    name: ClassVar[str] = "cityscapes"
    masks: str = "gtFine"

    def find_halves(self, root: Path, problems: list[str]) -> MaskItems:
        base, items = find_base(root, ("cityscapes",), ("leftImg8bit/train", f"{self.masks}/train")), MaskItems({}, {})
        for split, part in {"train": "train", "test": "val"}.items():
            named = list_names(base / "leftImg8bit" / part, problems, "_leftImg8bit")
            suffix = f"_{self.masks}_labelIds"
            masks = list_names(base / self.masks / part, problems, suffix, "mask")
            items.images |= {f"{part}/{name}": path for name, path in named.items()}
            items.masks |= {f"{part}/{name}": path for name, path in masks.items()}
            items.splits[split] = [f"{part}/{name}" for name in named]
        return items

    def find_reading(self, root: Path, items: MaskItems, problems: list[str]) -> ClassMasks:
        values = dict.fromkeys((*range(LAST_ID + 1), IGNORE, PLATE), IGNORE)
        return ClassMasks([*IDS.values()], values | {value: number for number, value in enumerate(IDS)})
