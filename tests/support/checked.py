"""What is checked here: noise images, flat images in memory, and a dataset's one report."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vision_peft.data.check.check import check_tasks
from vision_peft.data.check.report import TaskReport
from vision_peft.data.config import DataConfig
from vision_peft.data.dataset import ImageDataset

CLASS_NAMES = ("cat", "dog")


def noise(seed: int, size: tuple[int, int] = (9, 7)) -> Image.Image:
    """An RGB image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def check(config: DataConfig) -> TaskReport:
    """The report on a dataset of one task."""
    (report,) = check_tasks(config, workers=2)
    return report


class Squares(ImageDataset):
    """Flat images in memory; the label says nothing about the grey value."""

    def __init__(self, greys: Sequence[int], labels: Sequence[int], classes: Sequence[str] = CLASS_NAMES) -> None:
        super().__init__(classes, labels)
        self.greys = greys

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (self.greys[index],) * 3)

    def path(self, index: int) -> str:
        return f"grey {self.greys[index]}"
