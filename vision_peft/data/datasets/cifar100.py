"""CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels and 100 classes.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html;
the python version, read by torchvision from `ROOT/cifar-100-python/{train,test,meta}`. These files are pickles:
torchvision compares their MD5 with the official one before it opens them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torchvision.datasets import CIFAR100

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.train_test import TorchvisionHalves
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.arrays import ArrayImages


@dataclass(frozen=True, kw_only=True)
class Cifar100(TorchvisionHalves):
    """CIFAR-100 in memory, with the 100 fine classes."""

    name: ClassVar[str] = "cifar100"

    def locate(self, half: str) -> Official:
        listed = [*CIFAR100.train_list, *CIFAR100.test_list, (CIFAR100.meta["filename"], CIFAR100.meta["md5"])]
        files = {f"{CIFAR100.base_folder}/{file}": md5 for file, md5 in listed}
        return Official(family=self.name, files=files, archive=CIFAR100.url)

    def read_half(self, half: str, folder: Path, download: bool) -> ImageDataset:
        source = CIFAR100(folder, train=half == "train", download=download)
        return ArrayImages(source.data, source.targets, source.classes, range(len(source)), f"CIFAR-100 {half}")
