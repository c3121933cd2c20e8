"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 grey pixels, 10 classes.

Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
https://github.com/zalandoresearch/fashion-mnist. Four files in the IDX format of MNIST,
`{train,t10k}-images-idx3-ubyte` and `{train,t10k}-labels-idx1-ubyte`, each with or without `.gz`: below ROOT itself
(/usr/share/datasets/fashion-mnist of Debian's package dataset-fashion-mnist), or below ROOT/FashionMNIST/raw, where
torchvision puts them. Debian packs them anew, so that not the MD5 of the archives but sizes, counts and labels inside
are checked.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torchvision.datasets import FashionMNIST

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.draw_split import choose
from vision_peft.data.annotations.train_test import OfficialHalves
from vision_peft.data.config import check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.arrays import ArrayImages
from vision_peft.printable import warn

_NAMES = {"train": "train", "test": "t10k"}
_COUNTS = {"train": 60_000, "test": 10_000}
_SIDE = 28
_MAX_ITEMS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class FashionMnist(OfficialHalves):
    """Fashion-MNIST in memory, grey as RGB."""

    name: ClassVar[str] = "fashion_mnist"

    def load(self, split: str) -> ImageDataset:
        """Return the images of `split`.

        Raises:
            FileNotFoundError: missing files; the message says where they are expected and how to get them.
            ValueError: an unknown split, no `data.root`, or files that do not hold what they should.
            ConnectionError: `data.download=true`, and the download fails.
        """
        check_split(split)
        half = "test" if split == "test" else "train"
        files = {kind: f"{_NAMES[half]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")}
        folder = _find(find_root(self.root, self.name), list(files.values()), self.download)
        images = _read_idx(folder, files["images-idx3"], (_SIDE, _SIDE))
        labels = _read_idx(folder, files["labels-idx1"], ())
        if len(images) != len(labels):
            raise ValueError(f"{folder}: {len(images):,} images of {half}, but {len(labels):,} labels")
        if len(labels) and labels.max() >= len(FashionMNIST.classes):
            raise ValueError(f"{folder}: a label of {half} is {labels.max()}, wanted 0 to 9")
        if len(labels) != _COUNTS[half]:
            warn(f"{folder}: {len(labels):,} images of {half}, Fashion-MNIST has {_COUNTS[half]:,}", stacklevel=2)
        numbers = choose(split, labels.tolist(), self.val_fraction, self.seed)
        colour = np.repeat(images[numbers, :, :, None], 3, axis=3)
        return ArrayImages(
            colour, labels[numbers].tolist(), FashionMNIST.classes, numbers, f"Fashion-MNIST {_NAMES[half]}"
        )


def _find(root: Path, files: list[str], download: bool) -> Path:
    """Find the folder that holds the files; download them if that is wanted and they are not there."""

    def read(folder: Path, download: bool) -> Path:
        if download:
            FashionMNIST(folder, download=True)
        for below in (folder, folder / "FashionMNIST" / "raw"):
            if all(_locate(below, file) for file in files):
                return below
        raise RuntimeError("not all files are there")

    official = Official(family="fashion_mnist", files=dict.fromkeys(files), archive=FashionMNIST.mirrors[0])
    return official.read(root, read, download)


def _locate(folder: Path, file: str) -> Path | None:
    return next((path for name in (file, f"{file}.gz") if (path := folder / name).is_file()), None)


def _read_idx(folder: Path, file: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read an IDX file of bytes, a bounded number of items of `shape`; never more than its header announces."""
    path = _locate(folder, file)
    assert path is not None
    header = 4 * (2 + len(shape))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            start = np.frombuffer(stream.read(header).ljust(header, b"\0"), ">u4").astype(int).tolist()
            if start[0] != 0x0800 + 1 + len(shape) or tuple(start[2:]) != shape:
                raise ValueError(f"{path} does not start as an IDX file of bytes with items of {list(shape)}")
            if start[1] > _MAX_ITEMS:
                raise ValueError(f"{path} announces {start[1]:,} items, more than {_MAX_ITEMS:,}")
            wanted = start[1] * int(np.prod(shape, dtype=int))
            content = stream.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if len(content) != wanted:
        raise ValueError(f"{path} announces {wanted:,} bytes and holds {'more' if len(content) > wanted else 'fewer'}")
    return np.frombuffer(content, np.uint8).reshape(start[1], *shape)
