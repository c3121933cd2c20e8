"""List files of videos, the users' own: `path label` a line, or csv with the columns path and label.

These are the lists of VideoMAE and AdaptFormer (`train.csv`, a space between), of mmaction2 (`train.txt`), and csv with
commas; a path may hold spaces. With `raw_frames` a line is `folder frames label`, as mmaction2, TSM and VideoMAEv2 have
them: a folder with one image per frame, and how many of them the video has. `frame_names` says which images are frames
where others, such as those of optical flow, are beside them.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.annotations.split_lists import SplitLists
from vision_peft.data.annotations.video_paths import VideoCheck
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.frame_folders import list_frames
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.flat_arrays import TextArray
from vision_peft.data.item_names import name_below
from vision_peft.data.problems import quote
from vision_peft.printable import warn

_FOLDER = re.compile(r"(?P<folder>.+?)\s+(?P<frames>[0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class VideoLists(DataConfig):
    """Videos named by list files below `root`, with integer labels from 0 or class names.

    Classes and splits come about as for lists of images (`data=list`): without a val list `seed` draws val from train.
    """

    name: ClassVar[str] = "video_list"
    root: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    classes: str | None = None
    raw_frames: bool = False
    frame_names: str | None = None
    val_fraction: float = 0.1
    seed: int = 0
    allow_absolute: bool = False
    decoder: str = "auto"

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)
        if self.frame_names is not None and not self.raw_frames:
            raise ValueError("data.frame_names says which images are frames: it needs data.raw_frames=true")

    def draws_by_name(self) -> bool:
        return not self.val

    def load(self, split: str) -> ImageDataset:
        """Load the videos of `split`; one ValueError names every problem of all the lists, with file and line."""
        check_split(split)
        return self.open_splits()(split)

    def open_splits(self, problems: list[str] | None = None) -> Callable[[str], ImageDataset]:
        root = find_root(self.root, self.name)
        lists = SplitLists(self.name, root, self.train, self.val, self.test, self.classes, self.val_fraction, self.seed)
        confined = not self.allow_absolute
        frames = _FrameFolderCheck(root, confined, _HINT, self.frame_names) if self.raw_frames else None
        check = frames or _ListedVideoCheck(root, confined, _HINT)
        items = lists.read(check, problems)
        if frames and (more := frames.describe_more()):
            warn(f"data={self.name}: {more}", stacklevel=3)

        def load(split: str) -> ImageDataset:
            check_split(split)
            paths, labels = lists.take(items, split, check.what)
            if not self.raw_frames:
                return VideoFiles(paths, labels, items.classes, decoder=self.decoder)
            folders = [_split(path) for path in paths]
            return VideoFiles(
                [folder for folder, _ in folders],
                labels,
                items.classes,
                frame_counts=[frames for _, frames in folders],
                frame_names=self.frame_names,
                decoder=self.decoder,
            )

        return load


_HINT = " (data.allow_absolute=true lets it)"


class _ListedVideoCheck(VideoCheck):
    def find_absence(self, full: str, path: str) -> str | None:
        absent = super().find_absence(full, path)
        folder = _split(full)[0]
        if absent and (os.path.isdir(full) or os.path.isdir(folder)):  # noqa: PTH112
            return f"{absent}; there is a folder: data.raw_frames=true reads lines '<folder> <frames> <label>'"
        return absent


class _FrameFolderCheck(VideoCheck):
    """Checks `<folder> <frames>`: that the folder is below the root and holds so many frames."""

    def __init__(self, root: Path, confined: bool, hint: str, frame_names: str | None) -> None:
        super().__init__(root, confined, hint)
        self.frame_names = frame_names
        self.more: dict[str, str] = {}  # what is said of folders that hold more frames than their line says

    def describe_more(self) -> str:
        """Say which folders hold more frames than the lists say; "" if none does."""
        first = next(iter(self.more.values()), "")
        return first and f"frames are left out in {len(self.more)} of the folders: {first}"

    def find_absence(self, full: str, path: str) -> str | None:
        folder, frames = _split(full)
        if frames < 1:
            return f"wanted '<folder> <frames> <label>' with one frame or more, got folder and frames {quote(path)}"
        named = quote(_split(path)[0])
        if not os.path.isdir(folder):  # noqa: PTH112
            return f"folder {named} is missing"
        try:
            there = len(list_frames(folder, self.frame_names))
        except ValueError as error:
            return f"folder {named}: {error}; data.frame_names=img_*.jpg says which images are frames"
        held = f"{there} images" + ("" if self.frame_names is None else f" named {self.frame_names}")
        if there > frames:
            self.more.setdefault(folder, f"{named} holds {held}, the list says {frames} frames")
        return None if there >= frames else f"folder {named} holds {held}, the list says {frames} frames"

    def identity(self, full: str) -> str:
        return os.path.normpath(_split(full)[0])

    def list_names(self, paths: TextArray, full: TextArray) -> TextArray:
        return TextArray.of(name_below(self.identity(path), str(self.root)) for path in full)

    def is_inside(self, full: str) -> bool:
        return super().is_inside(full) and self.is_below(os.path.realpath(_split(full)[0]))


def _split(text: str) -> tuple[str, int]:
    """Return folder and number of frames, 0 if no number is given."""
    parts = _FOLDER.fullmatch(text)
    return (parts["folder"], int(parts["frames"])) if parts else (text, 0)
