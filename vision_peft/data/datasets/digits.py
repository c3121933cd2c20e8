"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images of 10 classes that come with the package.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (test part), as
`sklearn.datasets.load_digits`. The file is read, and the split drawn, without importing scikit-learn, which takes more
than a second of CPU; the images and the splits are those that `load_digits` and `train_test_split` give.
"""

import functools
import gzip
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
        pixels, labels = read_digits()
        trainval, test = split_by_class(np.arange(len(labels)), labels, 597, self.seed)
        train, val = split_by_class(trainval, labels, 200, self.seed)
        chosen = {"train": train, "val": val, "trainval": np.concatenate([train, val]), "test": test}[split]
        images = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # the dataset counts 0..16
        return DigitImages(images, labels[chosen].tolist(), chosen.tolist())


@functools.cache
def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read the pixels, N x 64 from 0 to 16, and the labels N.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ImportError("data=digits reads the images that come with scikit-learn: pip install scikit-learn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    if not file.is_file():  # a version that keeps them elsewhere
        from sklearn.datasets import load_digits

        whole: Any = load_digits()
        return whole.data, whole.target
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


def split_by_class(items: np.ndarray, labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` of `items`, from every class its share of them; return the others and these, each shuffled.

    `labels` are those of all items. The draw is that of scikit-learn's `train_test_split(items, test_size=size,
    stratify=labels[items], random_state=seed)`.
    """
    random = np.random.RandomState(seed)  # its streams are frozen by NumPy's policy, so a split stays the same for ever
    of_class = [np.flatnonzero(labels[items] == label) for label in np.unique(labels[items])]
    counts = np.array([len(places) for places in of_class])
    kept = _share_out(counts, len(items) - size, random)
    drawn = _share_out(counts - kept, size, random)
    first, second = list[int](), list[int]()
    for places, stay, go in zip(of_class, kept, drawn, strict=True):
        shuffled = places[random.permutation(len(places))]
        first.extend(shuffled[:stay])
        second.extend(shuffled[stay : stay + go])
    return items[random.permutation(first)], items[random.permutation(second)]


def _share_out(counts: np.ndarray, number: int, random: np.random.RandomState) -> np.ndarray:
    """Share `number` out over classes of `counts` items; the largest remainders are rounded up, equal ones by lot."""
    exact = counts / counts.sum() * number
    shares = np.floor(exact)
    remainders, missing = exact - shares, int(number - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        equal = np.flatnonzero(remainders == remainder)
        chosen = random.choice(equal, size=min(len(equal), missing), replace=False)
        shares[chosen] += 1
        missing -= len(chosen)
    return shares.astype(int)
