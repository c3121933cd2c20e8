"""CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels and 100 classes.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html;
the python version, read by torchvision from `ROOT/cifar-100-python/{train,test,meta}`. These files are pickles:
torchvision compares their MD5 with the official one before it opens them.
"""

from dataclasses import dataclass
from typing import ClassVar

from torchvision.datasets import CIFAR100

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.draw_split import choose
from vision_peft.data.annotations.train_test import OfficialHalves
from vision_peft.data.config import check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.arrays import ArrayImages


@dataclass(frozen=True, kw_only=True)
class Cifar100(OfficialHalves):
    """CIFAR-100 in memory, with the 100 fine classes."""

    name: ClassVar[str] = "cifar100"

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; raises FileNotFoundError for missing files, ValueError for unofficial ones."""
        check_split(split)
        root = find_root(self.root, self.name)
        part = "test" if split == "test" else "train"
        listed = [*CIFAR100.train_list, *CIFAR100.test_list, (CIFAR100.meta["filename"], CIFAR100.meta["md5"])]
        files = {f"{CIFAR100.base_folder}/{file}": md5 for file, md5 in listed}
        source = Official(family=self.name, files=files, archive=CIFAR100.url).read(
            root, lambda folder, download: CIFAR100(folder, train=part == "train", download=download), self.download
        )
        numbers = choose(split, source.targets, self.val_fraction, self.seed)
        labels = [source.targets[number] for number in numbers]
        return ArrayImages(source.data[numbers], labels, source.classes, numbers, f"CIFAR-100 {part}")
