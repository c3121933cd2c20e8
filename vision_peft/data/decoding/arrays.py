"""Images that are held in memory as one array."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.flat_arrays import IntArray


class ArrayImages(ImageDataset):
    """RGB images in memory: `images` uint8 `N H W 3`; `numbers` are their places in the file `source`.

    Scaling tens of thousands of them is work for several processes, so `in_memory` stays False.
    """

    def __init__(
        self, images: np.ndarray, labels: Sequence[int], classes: Sequence[str], numbers: Sequence[int], source: str
    ) -> None:
        super().__init__(classes, labels)
        self.images = images
        self.numbers = list(numbers)
        self.source = source

    def subset(self, items: Sequence[int]) -> "ArrayImages":
        chosen = list(items)
        labels, numbers = IntArray(self.labels).take(chosen), [self.numbers[item] for item in chosen]
        part = ArrayImages(self.images[chosen], labels, self.classes, numbers, self.source)
        part.targets = self.targets
        return part

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def path(self, index: int) -> str:
        return f"{self.source}[{self.numbers[index]}]"
