"""Miniatures of the known sets of images with masks, laid out as their official archives are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from support.mask_files import halves, write_image, write_mask


def write_voc(root: Path, train: int = 6, held_out: int = 3) -> Path:
    """Write VOCdevkit/VOC2012: background and aeroplane, with a border of 255 between them."""
    base = root / "VOCdevkit" / "VOC2012"
    for split, numbers in _number(train, held_out).items():
        names = [f"2007_{number:06}" for number in numbers]
        for name, number in zip(names, numbers, strict=True):
            write_image(base / "JPEGImages" / f"{name}.jpg", seed=number)
            mask = halves()
            mask[:, mask.shape[1] // 2] = 255
            write_mask(base / "SegmentationClass" / f"{name}.png", mask, palette=True)
        lists = base / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{'train' if split == 'train' else 'val'}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def write_ade20k(root: Path, train: int = 6, held_out: int = 3) -> Path:
    """Write ADEChallengeData2016: wall and the last class, with 0 in the first row."""
    base = root / "ADEChallengeData2016"
    for split, numbers in _number(train, held_out).items():
        part = "training" if split == "train" else "validation"
        for number in numbers:
            name = f"ADE_{'train' if split == 'train' else 'val'}_{number:08}"
            write_image(base / "images" / part / f"{name}.jpg", seed=number)
            mask = halves(numbers=(1, 150))
            mask[0] = 0
            write_mask(base / "annotations" / part / f"{name}.png", mask)
    rows = [f"{number}\t0.1\t10\t1\t{_name_class(number)}" for number in range(1, 151)]
    (base / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
    return root


def write_cityscapes(root: Path, train: int = 6, held_out: int = 3) -> Path:
    """Write leftImg8bit and gtFine of two cities: road and bicycle, with ids that do not count in the first row."""
    for split, numbers in _number(train, held_out).items():
        part = "train" if split == "train" else "val"
        for number in numbers:
            name = f"{'aachen' if number % 2 else 'ulm'}/{'aachen' if number % 2 else 'ulm'}_{number:06}_000019"
            write_image(root / "leftImg8bit" / part / f"{name}_leftImg8bit.png", seed=number)
            mask = halves(numbers=(7, 33))
            mask[0, :4] = (0, 4, 29, 255)
            write_mask(root / "gtFine" / part / f"{name}_gtFine_labelIds.png", mask)
            write_mask(root / "gtFine" / part / f"{name}_gtFine_instanceIds.png", mask.astype(np.uint16) * 1000)
    return root


def write_camvid(root: Path, train: int = 6, held_out: int = 3) -> Path:
    """Write CamVid as SegNet has it, with two images of val: sky and bicyclist, with void in the first row."""
    base, counts = root / "CamVid", {"train": train, "val": 2, "test": held_out}
    start = 0
    for split, count in counts.items():
        for number in range(start, start + count):
            name = f"0001TP_{number:06}.png"
            write_image(base / split / name, seed=number)
            mask = halves(numbers=(0, 10))
            mask[0] = 11
            write_mask(base / f"{split}annot" / name, mask)
        start += count
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "voc": write_voc,
    "ade20k": write_ade20k,
    "cityscapes": write_cityscapes,
    "camvid": write_camvid,
}


def _number(train: int, held_out: int) -> dict[str, range]:
    return {"train": range(train), "test": range(train, train + held_out)}


def _name_class(number: int) -> str:
    """Name a class as the table of ADE20K does: synonyms behind commas, and a first word that two classes share."""
    names = {1: "wall", 14: "screen, CRT screen", 131: "screen, silver screen"}
    return names.get(number, f"thing {number}, object {number}")
