"""What every dataset family shares: the config that a user fills in and the map-style dataset that it loads."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vision_peft.fields import Checked
from vision_peft.suggest import did_you_mean

SPLITS = ("train", "val", "trainval", "test")


class ImageDataset(Dataset[tuple[Any, int]], ABC):
    """Map-style dataset whose item `i` is `(transform(image), label)`; without a transform the image is an RGB PIL
    image.

    `classes` are the class names in label order, `labels` the label of every item. An undecodable file raises
    `ImageDecodeError`: a dataset neither replaces nor drops a sample; what becomes of it the loader decides and counts.
    """

    in_memory: bool = False  # an item costs next to nothing, so that worker processes would only slow it down
    tensors: Tensor | None = None  # all items as one tensor, which is then what a loader gives; nothing is transformed

    def __init__(self, classes: Sequence[str], labels: Iterable[int]) -> None:
        self.classes = list(classes)
        self.labels = [int(label) for label in labels]
        self.transform: Callable[[Any], Any] | None = None

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Decoded RGB image of item `index`, before any transform."""

    @abstractmethod
    def path(self, index: int) -> str:
        """Where item `index` comes from, for messages."""

    def prepare(self) -> None:
        """Called by a loader before it reads items and before it starts processes: the time to decode ahead."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label = self.labels[index]
        image = self.image(index)
        return (image if self.transform is None else self.transform(image)), label


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

    @abstractmethod
    def load(self, split: str) -> ImageDataset:
        """The dataset of `split` ("train", "val", "trainval" or "test").

        Everything that can be checked without decoding is checked here, so load all splits a run reads before it
        starts. Raises ValueError for an unknown split or for bad content (all problems at once), FileNotFoundError
        for a missing folder.
        """


class DataProblems(ValueError):
    """A data set that cannot be used as it is; `problems` are all that was found, one line each."""

    def __init__(self, text: str, problems: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.problems = list(problems)


class UnknownTask(ValueError):
    """`data.task` names nothing that lies below `data.root`."""


def unknown(what: str, got: str, choices: Iterable[str]) -> ValueError:
    """Error for a name that is none of `choices`, with the nearest one as a suggestion."""
    choices = list(choices)
    hint = did_you_mean(str(got), choices)
    return ValueError(f"unknown {what} {got!r}{hint}: wanted one of {', '.join(choices)}")


def check_split(split: str) -> None:
    """Raises ValueError unless `split` is one of the four splits."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)


def existing_root(root: str | None, family: str) -> Path:
    """`data.root` as an absolute path; raises ValueError where it is not given, OSError where it is no folder."""
    if not root:
        raise ValueError(f"data={family} needs the folder of the data: give data.root=FOLDER")
    folder = Path(root).expanduser().absolute()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"data.root={root} is a file; data={family} wants a folder")
    nearest = next(parent for parent in folder.parents if parent.is_dir())
    siblings = [path.name for path in nearest.iterdir()]
    hint = did_you_mean(folder.relative_to(nearest).parts[0], siblings, prefix=f"{nearest}/")
    raise FileNotFoundError(f"data.root={root} is not a folder: {nearest} exists, {folder} does not{hint}")


def raise_problems(summary: str, problems: Sequence[str], shown: int = 20) -> None:
    """Raises `DataProblems` that lists the first `shown` of `problems` and counts the rest; none raises nothing."""
    if not problems:
        return
    lines = [f"  {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  and {len(problems) - shown} more")
    text = "\n".join([f"{summary}: {len(problems)} problem{'s' * (len(problems) > 1)}", *lines])
    raise DataProblems(text, problems)
