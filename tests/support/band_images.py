"""Small datasets of images with bands, as users have them."""

from pathlib import Path

import numpy as np
import tifffile

CLASSES = ("dark", "bright")


def write_bands(
    root: Path,
    channels: int,
    number: int = 6,
    dtype: str = "uint16",
    splits: tuple[str, ...] = ("train", "val", "test"),
) -> Path:
    """Write `root/SPLIT/CLASS/N.tif` of noise, `number` a class; one class has a brighter last band."""
    draw = np.random.default_rng(channels)
    for split in splits:
        for place, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(number):
                values = draw.integers(0, 100, (13, 10, channels))
                values[..., -1] += 100 * place
                options = {"photometric": "minisblack", "planarconfig": "contig" if channels > 1 else None}
                tifffile.imwrite(folder / f"{index}.tif", values.astype(dtype).squeeze(), **options)
    return root
