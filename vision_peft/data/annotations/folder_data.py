"""What datasets of class folders have in common, whatever the files in them are."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_peft.data.annotations.class_folders import WHOLE, OtherKind, find_split_folders, read_class_folders
from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.scan_folder import FileKind
from vision_peft.data.annotations.split_items import SplitItems
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.problems import raise_problems
from vision_peft.data.targets import Targets

KINDS = ("classes", "embedding")  # of tasks that class folders are for


@dataclass(frozen=True, kw_only=True)
class ClassFolders(DataConfig):
    """Files sorted into one folder per class.

    The class names are those of the train folder, in the order of `sorted`. Without a val folder `val_fraction` of
    train is drawn; without any split folder `test_fraction` and `val_fraction` of all files are. What is drawn depends
    on the name of each file and on `seed` alone (`SplitByName`), so a file that comes or goes moves no other. Links
    are followed. Files that are not read are counted in a warning: hidden ones, and those of other extensions. With
    `task_kind` "embedding" the classes are those of all splits, which may have different ones.
    """

    root: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    recursive: bool = False
    leave_out: tuple[str, ...] = ()
    task_kind: str = "classes"

    def __post_init__(self) -> None:
        if self.task_kind not in KINDS:
            raise ValueError(f"task_kind must be one of {', '.join(KINDS)}, got {self.task_kind!r}")
        for field in ("val_fraction", "test_fraction"):
            check_fraction(field, getattr(self, field))
        if self.val_fraction + self.test_fraction >= 1:
            total = self.val_fraction + self.test_fraction
            raise ValueError(
                f"data.val_fraction and data.test_fraction add up to {total:g}: they leave nothing for train"
            )
        if wrong := [extension for extension in self.leave_out if not extension.startswith(".")]:
            raise ValueError(f"data.leave_out lists extensions such as .heic, got {', '.join(map(repr, wrong))}")

    @property
    @abstractmethod
    def kind(self) -> FileKind:
        """The files that are read."""

    @property
    @abstractmethod
    def other(self) -> OtherKind:
        """The files for which another family is meant."""

    @abstractmethod
    def make(self, paths: TextArray, labels: IntArray, classes: list[str], seen: Any) -> ImageDataset:
        """Return the dataset of one split; `seen` is what `look_at` returned."""

    def select(self, items: SplitItems, problems: list[str]) -> SplitItems:
        """Choose the files that are items; what is wrong is appended to `problems`."""
        return items

    def look_at(self, items: SplitItems) -> Any:
        """Warn of what the files themselves say, and return what the datasets of all splits share."""

    def load(self, split: str) -> ImageDataset:
        """Load the files of `split`; raises one ValueError with every problem of the tree."""
        check_split(split)
        return self.open_splits()(split)

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        root = find_root(self.root, self.name)
        found: list[str] = []
        leave_out = [extension.lower() for extension in self.leave_out]
        items = read_class_folders(
            root,
            self.kind,
            found,
            other=self.other,
            recursive=self.recursive,
            leave_out=leave_out,
            open_set=self.task_kind == "embedding",
        )
        items = self.select(items, found)
        if problems is None or not len(items.paths):
            raise_problems(f"data.root={self.root}", found)
        else:
            problems += found
        self._draw(root, items)
        seen = self.look_at(items)

        def load(split: str) -> ImageDataset:
            check_split(split)
            if split == "test" and "test" not in items.parts:
                raise FileNotFoundError(
                    f"{root} has no folder test: name one so (val is then drawn from train where there is none), "
                    f"or put the class folders directly into the root to have train, val and test drawn"
                )
            dataset = self.make(*items.take(split), items.classes, seen)
            dataset.targets = None if self.task_kind == "classes" else Targets(self.task_kind)
            return dataset

        return load

    def draws_by_name(self) -> bool:
        return "val" not in find_split_folders(find_root(self.root, self.name))

    def _draw(self, root: Path, items: SplitItems) -> None:
        """Divide what there is of the splits without a folder, by the names of the files."""
        divided = WHOLE if WHOLE in items.parts else "train"
        shares = {"test": self.test_fraction} if divided == WHOLE else {}
        shares |= {} if "val" in items.parts else {"val": self.val_fraction}
        if shares:
            items.draw_parts(divided, shares, self.seed, str(root))
