"""What every dataset family asks of a user: the config, the four splits, the folder of the data."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.problems import unknown
from vision_peft.data.root import find_root as find_root
from vision_peft.data.root import name_folder
from vision_peft.fields import Checked, at_least

SPLITS = ("train", "val", "trainval", "test")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked, ABC):
    """Settings of one dataset family, typed by a user as `data=<name> data.<field>=...`.

    A family is one file in `datasets/` with one such dataclass; `vision_peft.data.DATASETS` finds it by reading the
    folder.
    """

    name: ClassVar[str]
    protocol: ClassVar[str] = "val_select"  # of the training where the user names none
    suite: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # groups of tasks: data.task=<group>, or all of them: all
    balanced: bool = False  # train on every class equally often, however many images it has
    shots: int | None = None  # items of each class that are trained on; None: all
    train_share: float = 1.0  # of the items of each class, or of all where there are none, that are trained on

    def find_part_problems(self) -> list[str | None]:
        """Describe what is wrong with the part of the data that is trained on."""
        both = self.shots is not None and self.train_share != 1
        return [
            at_least("data.shots", self.shots, 1),
            None
            if 0 < self.train_share <= 1
            else f"data.train_share must be above 0, at most 1; got {self.train_share}",
            "data.shots and data.train_share both select a part of train: give only one of them" if both else None,
        ]

    @abstractmethod
    def load(self, split: str) -> ImageDataset:
        """Return the dataset of `split` ("train", "val", "trainval" or "test").

        Everything that can be checked without decoding is checked here, so load all splits a run reads before it
        starts.

        Raises:
            ValueError: an unknown split or bad content, all problems at once.
            FileNotFoundError: a missing folder or list.
        """

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        """Return what `load` is, for one split after another.

        Data whose splits lie in one tree or are checked against each other is read here, once.

        Args:
            problems: of the content; they are appended to the list, and what is sound can be loaded. None: raise them.
        """
        return self.load

    def draws_by_name(self) -> bool:
        """Whether a split is drawn by the names of the items, which versions without data.json drew otherwise."""
        return False

    def base(self) -> Path | None:
        """Return the folder that items are named relative to, wherever it is mounted; None: there is none."""
        root = getattr(self, "root", None)
        return name_folder(root) if root else None


def check_split(split: str) -> None:
    """Raise ValueError unless `split` is one of the four splits."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
