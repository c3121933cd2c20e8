"""Small folders of images with masks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = [0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200]


def write_image(path: Path, size: tuple[int, int] = (16, 12), seed: int = 0) -> None:
    """Write a random RGB image of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, values: np.ndarray, palette: bool = False) -> None:
    """Write a mask (H W) of 8 or 16 bits, or colours (H W 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette(COLOURS + [0] * (768 - len(COLOURS)))  # PIL keeps 2 bits of a value where there are 4 colours
    image.save(path)


def halves(size: tuple[int, int] = (16, 12), numbers: tuple[int, int] = (0, 1)) -> np.ndarray:
    """A mask (H W) of (width, height) with one number in its left and another one in its right half."""
    mask = np.full((size[1], size[0]), numbers[0], np.uint8)
    mask[:, size[0] // 2 :] = numbers[1]
    return mask


def write_set(
    root: Path, splits: Mapping[str, int], size: tuple[int, int] = (16, 12), classes: str = "land\nwater\n"
) -> Path:
    """Write `images`, `masks`, lists of `splits` (with so many images each) and `classes.txt`; return the root."""
    number = 0
    for split, count in splits.items():
        names = [f"{number + place:03}" for place in range(count)]
        for name in names:
            write_image(root / "images" / f"{name}.jpg", size, int(name))
            write_mask(root / "masks" / f"{name}.png", np.roll(halves(size), int(name) % 5, 1), palette=True)
        (root / "splits").mkdir(parents=True, exist_ok=True)
        (root / "splits" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        number += count
    (root / "classes.txt").write_text(classes)
    return root


def write_depths(root: Path, splits: Mapping[str, int], size: tuple[int, int] = (16, 12)) -> Path:
    """Write `images`, `depth` (16 bits, millimetres, 0 in a corner) and lists of `splits`; return the root."""
    write_set(root, splits, size)
    for mask in sorted((root / "masks").iterdir()):
        depths = np.linspace(800, 3000, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint16)
        depths = np.roll(depths, int(mask.stem), 1)
        depths[:2, :2] = 0
        write_mask(root / "depth" / mask.name, depths)
    return root
