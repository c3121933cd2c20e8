"""Datasets that come in two official halves, train and test: val is drawn from train."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.draw_split import check_fraction, choose
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset


@dataclass(frozen=True, kw_only=True)
class OfficialHalves(DataConfig):
    """Settings that such datasets share.

    `seed` draws `val_fraction` of train as val, class by class; trainval is all of train.
    """

    protocol: ClassVar[str] = "val_select_retrain"
    root: str | None = None
    val_fraction: float = 0.1
    seed: int = 0
    download: bool = False

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)


@dataclass(frozen=True, kw_only=True)
class TorchvisionHalves(OfficialHalves):
    """Such a dataset that torchvision reads whole: a family says where the files are and how a half is read."""

    @abstractmethod
    def locate(self, half: str) -> Official:
        """Return the files that the half ("train" or "test") is read from."""

    @abstractmethod
    def read_half(self, half: str, folder: Path, download: bool) -> ImageDataset:
        """Return all images of the half by torchvision's class for it.

        That class raises RuntimeError where files are missing or have another MD5, unless it may download them.
        """

    def load(self, split: str) -> ImageDataset:
        """Return the images of `split`.

        Raises:
            FileNotFoundError: missing files; the message says where they are expected and how to get them.
            ValueError: an unknown split, no `data.root`, or files that are not the official ones.
            ConnectionError: `data.download=true`, and the download fails.
        """
        check_split(split)
        half = "test" if split == "test" else "train"
        root = find_root(self.root, self.name)
        whole = self.locate(half).read(
            root, lambda folder, download: self.read_half(half, folder, download), self.download
        )
        return whole.subset(choose(split, whole.labels, self.val_fraction, self.seed))
