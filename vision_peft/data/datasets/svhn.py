"""SVHN, cropped house numbers: 73,257 training and 26,032 test images of 32x32 pixels and 10 digits.

Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011,
http://ufldl.stanford.edu/housenumbers; read by torchvision from `ROOT/{train,test}_32x32.mat`, whose MD5 it compares
with the official one first. The 531,131 extra images are not used, as in AdaptFormer.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torchvision.datasets import SVHN

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.draw_split import choose
from vision_peft.data.annotations.train_test import OfficialHalves
from vision_peft.data.config import check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.arrays import ArrayImages


@dataclass(frozen=True, kw_only=True)
class Svhn(OfficialHalves):
    """SVHN in memory; the label is the digit, 0 for what the file calls 10."""

    name: ClassVar[str] = "svhn"

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; raises FileNotFoundError for a missing file, ValueError for an unofficial one."""
        check_split(split)
        root = find_root(self.root, self.name)
        part = "test" if split == "test" else "train"
        url, file, md5 = SVHN.split_list[part]
        source = Official(family=self.name, files={file: md5}, archive=url).read(
            root, lambda folder, download: SVHN(folder, split=part, download=download), self.download
        )
        numbers = choose(split, source.labels.tolist(), self.val_fraction, self.seed)
        images = np.ascontiguousarray(source.data[numbers].transpose(0, 2, 3, 1))  # torchvision keeps N C H W
        digits = [str(digit) for digit in range(10)]
        return ArrayImages(images, source.labels[numbers].tolist(), digits, numbers, f"SVHN {part}")
