"""A VTAB-1k root with a handful of 8-pixel images a task."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"train800": 8, "val200": 4, "test": 4}


def write_vtab(root: Path, tasks: Iterable[str]) -> Path:
    """Write the lists and images of `tasks`, two classes each, and give `root`."""
    generator = np.random.default_rng(0)
    for task in tasks:
        folder = root / task
        lines: dict[str, list[str]] = {}
        for split, size in SIZES.items():
            (folder / "images" / split).mkdir(parents=True)
            lines[split] = [f"images/{split}/{number:06d}.png {number % 2}" for number in range(size)]
            for line in lines[split]:
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / line.split()[0])
        lines["train800val200"] = lines["train800"] + lines["val200"]
        for split, words in lines.items():
            (folder / f"{split}.txt").write_text("\n".join(words) + "\n")
    return root
