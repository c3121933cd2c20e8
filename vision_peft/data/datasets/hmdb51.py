"""HMDB51: 51 actions, 6,766 clips, of which each of three splits has 3,570 for training and 1,530 for test.

Kuehne et al., "HMDB: A large video database for human motion recognition", 2011,
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database. The official lists are 153 files
`<action>_test_split<n>.txt` of lines `<video> <part>`: 1 is train, 2 test, 0 unused. Clips are in
`videos/<action>/<video>`; a clip re-encoded under another extension is found too. Any other data in this layout are
read as well.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from vision_peft.data.annotations.draw_split import check_fraction, choose
from vision_peft.data.annotations.list_files import Entry, find_repeat, read_entries
from vision_peft.data.annotations.video_paths import VIDEO_EXTENSIONS, VideoCheck
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.problems import quote, raise_problems, unknown

LIST_FOLDERS = ("splits", "testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "annotations")
VIDEO_FOLDERS = ("videos", "hmdb51_org", "")
SPLITS = (1, 2, 3)
_PARTS = {"0": None, "1": "train", "2": "test"}


class Video(NamedTuple):
    """One line of a list: action, name of the video there, and the list with its line for messages."""

    action: str
    name: str
    where: str


class Lists(NamedTuple):
    """The lists of one split: the actions in alphabetical order, the videos of "train" and "test"."""

    actions: list[str]
    parts: dict[str, list[Video]]


@dataclass(frozen=True, kw_only=True)
class HMDB51(DataConfig):
    """HMDB51, official split `split`; classes are the actions in alphabetical order.

    It has no validation split: `seed` draws `val_fraction` of train as val, class by class; trainval is all of train.
    """

    name: ClassVar[str] = "hmdb51"
    root: str | None = None
    split: int = 1
    val_fraction: float = 0.1
    seed: int = 0
    decoder: str = "auto"

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)
        if self.split not in SPLITS:
            raise ValueError(f"data.split is the official split 1, 2 or 3, got {self.split!r}")

    def load(self, split: str) -> ImageDataset:
        """Load the videos of `split`; one ValueError names every problem of the lists and every missing video."""
        check_split(split)
        root = find_root(self.root, self.name)
        folder = _list_folder(root, self.split)
        problems: list[str] = []
        lists = read_lists(folder, self.split, problems)
        videos = _video_folder(root, lists.actions)
        known = sorted(path.name for path in videos.iterdir() if path.is_dir() and not path.name.startswith("."))
        _compare(folder, videos, lists.actions, known, self.split, problems)
        paths = {part: _find(videos, known, lists.parts[part], problems) for part in ("train", "test")}
        raise_problems(f"data={self.name} data.root={self.root}", problems)

        part = "test" if split == "test" else "train"
        place = {action: label for label, action in enumerate(lists.actions)}
        labels = [place[video.action] for video in lists.parts[part]]
        numbers = choose(split, labels, self.val_fraction, self.seed)
        return VideoFiles(
            [paths[part][number] for number in numbers],
            [labels[number] for number in numbers],
            lists.actions,
            decoder=self.decoder,
        )


def read_lists(folder: Path, split: int, problems: list[str]) -> Lists:
    """Read the lists of split `split` in `folder`, without a look at the videos.

    Every problem is appended to `problems` with file and line: a malformed line, a part that is not 0, 1 or 2, a
    video named twice, a list without videos.
    """
    suffix = f"_test_split{split}.txt"
    names = [path.name for path in folder.iterdir() if path.name.endswith(suffix) and not path.name.startswith(".")]
    lists = Lists(sorted(name.removesuffix(suffix) for name in names), {"train": [], "test": []})
    for action in lists.actions:
        file, first = folder / f"{action}{suffix}", dict[str, Entry]()
        for entry in read_entries(file, problems):
            where = f"{file}:{entry.line}"
            if entry.label not in _PARTS:
                problems.append(f"{where}: wanted '<video> <0, 1 or 2>', got {quote(f'{entry.path} {entry.label}')}")
            elif re.search(r"[/\\\0]", entry.path) or entry.path in (".", ".."):
                problems.append(f"{where}: wanted the name of a video, got {quote(entry.path)}")
            elif trouble := find_repeat(entry, first, "video"):
                problems.append(f"{where}: {trouble}")
            elif part := _PARTS[entry.label]:
                lists.parts[part].append(Video(action, entry.path, where))
    for part, videos in lists.parts.items():
        if not videos and not problems:
            problems.append(f"{folder}: the lists of split {split} name no video for {part}")
    return lists


def _list_folder(root: Path, split: int) -> Path:
    for name in LIST_FOLDERS:
        if any((root / name).glob(f"*_test_split{split}.txt")):
            return root / name
    others = sorted({path.name[-5] for name in LIST_FOLDERS for path in (root / name).glob("*_test_split[123].txt")})
    hint = f"; there are those of split {', '.join(others)}" if others else ""
    raise FileNotFoundError(
        f"{root}: no lists <action>_test_split{split}.txt in {', '.join(LIST_FOLDERS)}{hint}. "
        f"Unpack test_train_splits.rar of HMDB51 there"
    )


def _video_folder(root: Path, actions: list[str]) -> Path:
    """Find the folder that holds most of the folders of the actions."""
    folders = [folder for name in VIDEO_FOLDERS if (folder := root / name).is_dir()]
    return max(folders, key=lambda folder: sum((folder / action).is_dir() for action in actions))


def _compare(
    folder: Path, videos: Path, actions: Sequence[str], known: Sequence[str], split: int, problems: list[str]
) -> None:
    """Append to `problems` lists without a folder of videos, and folders without a list."""
    for action in actions:
        if action not in known:
            hint = unknown("action", action, known) if known else "it holds no folders"
            problems.append(f"{folder / action}_test_split{split}.txt: there is no folder {videos / action}: {hint}")
    if videos not in folder.parents:  # the root holds other folders too
        for name in sorted({*known} - {*actions}):
            problems.append(f"{videos / name}: no list {name}_test_split{split}.txt names this action's videos")


def _find(folder: Path, known: Sequence[str], videos: list[Video], problems: list[str]) -> list[str]:
    """Find full paths of the videos; what is missing or empty of the `known` actions goes to `problems`."""
    check = VideoCheck(folder)
    by_stem = {action: _by_stem(folder / action) for action in {video.action for video in videos}}
    paths = []
    for action, name, where in videos:
        there = name if (folder / action / name).exists() else by_stem[action].get(_stem(name), name)
        if action in known and (trouble := check.find_problem(f"{action}/{there}")):
            problems.append(f"{where}: {trouble}")
        paths.append(str(folder / action / there))
    return paths


def _by_stem(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in VIDEO_EXTENSIONS)
    return {_stem(name): name for name in reversed(names)}


def _stem(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem if f"{dot}{extension}".lower() in VIDEO_EXTENSIONS else name
