"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images of 10 classes that come with the package.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (test part), as
`sklearn.datasets.load_digits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from vision_peft.data.config import DataConfig, check_split
from vision_peft.data.dataset import ImageDataset


class DigitImages(ImageDataset):
    """8x8 uint8 images held in memory; `numbers` are their places in scikit-learn's order."""

    in_memory = True

    def __init__(self, images: np.ndarray, labels: Sequence[int], numbers: Sequence[int]) -> None:
        super().__init__([str(digit) for digit in range(10)], labels)
        self.images = images
        self.numbers = list(numbers)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index]).convert("RGB")

    def path(self, index: int) -> str:
        return f"sklearn digits[{self.numbers[index]}]"


@dataclass(frozen=True, kw_only=True)
class Digits(DataConfig):
    """Digits split 1,000 train / 200 val / 597 test, stratified by class; `seed` draws the split."""

    name: ClassVar[str] = "digits"
    seed: int = 0

    def load(self, split: str) -> ImageDataset:
        """Load the digits of `split` as 8x8 RGB images; needs neither files nor network."""
        check_split(split)
        # scikit-learn takes a second to import, which no other family should pay
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        trainval, test = train_test_split(
            np.arange(len(labels)), test_size=597, stratify=labels, random_state=self.seed
        )
        train, val = train_test_split(trainval, test_size=200, stratify=labels[trainval], random_state=self.seed)
        chosen = {"train": train, "val": val, "trainval": np.concatenate([train, val]), "test": test}[split]
        images = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # the data set counts 0..16
        return DigitImages(images, labels[chosen].tolist(), chosen.tolist())
