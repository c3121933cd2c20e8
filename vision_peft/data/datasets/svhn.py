"""SVHN, cropped house numbers: 73,257 training and 26,032 test images of 32x32 pixels and 10 digits.

Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011,
http://ufldl.stanford.edu/housenumbers; read by torchvision from `ROOT/{train,test}_32x32.mat`, whose MD5 it compares
with the official one first. The 531,131 extra images are not used, as in AdaptFormer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torchvision.datasets import SVHN

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.train_test import TorchvisionHalves
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.arrays import ArrayImages


@dataclass(frozen=True, kw_only=True)
class Svhn(TorchvisionHalves):
    """SVHN in memory; the label is the digit, 0 for what the file calls 10."""

    name: ClassVar[str] = "svhn"

    def locate(self, half: str) -> Official:
        url, file, md5 = SVHN.split_list[half]
        return Official(family=self.name, files={file: md5}, archive=url)

    def read_half(self, half: str, folder: Path, download: bool) -> ImageDataset:
        source = SVHN(folder, split=half, download=download)
        images = np.ascontiguousarray(source.data.transpose(0, 2, 3, 1))  # torchvision keeps N C H W
        digits = [str(digit) for digit in range(10)]
        return ArrayImages(images, source.labels.tolist(), digits, range(len(source)), f"SVHN {half}")
