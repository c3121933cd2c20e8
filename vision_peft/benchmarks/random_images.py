"""A dataset of random images, so that what they are trained with needs no files."""

import numpy as np
from PIL import Image

from vision_peft.data import ImageDataset


class RandomImages(ImageDataset):
    """Two images of noise of each class, always the same."""

    in_memory = True

    def __init__(self, classes: int, side: int = 32) -> None:
        super().__init__(
            [str(number) for number in range(classes)], [number % classes for number in range(2 * classes)]
        )
        self.side = side

    def image(self, index: int) -> Image.Image:
        pixels = np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def path(self, index: int) -> str:
        return f"random image {index}"
