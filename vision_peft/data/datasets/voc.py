"""PASCAL VOC 2012, 1,464 images to train on and 1,449 to validate, 20 classes and background.

Everingham et al., IJCV 2015, http://host.robots.ox.ac.uk/pascal/VOC/voc2012. The official archive unpacks to
`VOCdevkit/VOC2012` with `JPEGImages/<name>.jpg`, `SegmentationClass/<name>.png` (a palette; index 255 is the border
between objects, which does not count) and lists of names, `ImageSets/Segmentation/{train,val}.txt`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.mask_folders import MaskItems, list_names, read_names
from vision_peft.data.annotations.official_masks import OfficialMasks, find_base
from vision_peft.data.decoding.masks import ClassMasks

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True, kw_only=True)
class Voc(OfficialMasks):
    """PASCAL VOC 2012.

    The augmented training set of 10,582 images has a folder of masks and a list of its own: `masks` and `train` name
    them, the list without `.txt`.
    """

    name: ClassVar[str] = "voc"
    masks: str = "SegmentationClass"
    train: str = "train"

    def find_halves(self, root: Path, problems: list[str]) -> MaskItems:
        needed = ("JPEGImages", self.masks, "ImageSets/Segmentation")
        base = find_base(root, ("VOCdevkit/VOC2012", "VOC2012"), needed)
        images = list_names(base / "JPEGImages", problems)
        items = MaskItems(images, list_names(base / self.masks, problems, what="mask"))
        lists = base / "ImageSets" / "Segmentation"
        for split, name in {"train": self.train, "test": "val"}.items():
            file = lists / f"{name}.txt"
            if not file.is_file():
                raise FileNotFoundError(f"there is no list {file}")
            items.splits[split] = list(read_names(file, items.images, problems))
        return items

    def find_reading(self, root: Path, items: MaskItems, problems: list[str]) -> ClassMasks:
        return ClassMasks(CLASSES)
