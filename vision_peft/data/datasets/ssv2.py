"""Something-Something V2: 174 actions with everyday objects, 168,913 videos for training and 24,777 for validation.

Goyal et al., "The 'something something' video database", 2017, https://www.qualcomm.com/developer/software/
something-something-v-2-dataset. The class of a video is its `template` without the brackets, as in the labels file.
The labels of the test videos were never published: every published accuracy is one on the validation videos, so they
are the test split here.

Left and right, up and down are classes: nothing may flip these videos.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from vision_peft.data.annotations.draw_split import check_fraction, choose
from vision_peft.data.annotations.list_files import read_lines
from vision_peft.data.annotations.video_paths import VIDEO_EXTENSIONS, VideoCheck
from vision_peft.data.config import DataConfig, check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.problems import quote, raise_problems
from vision_peft.strict_json import parse_json
from vision_peft.suggest import Suggestions

LIST_FOLDERS = ("", "labels", "annotations")
VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", "")
LIST_NAMES = {
    "labels": ("something-something-v2-labels.json", "labels.json"),
    "train": ("something-something-v2-train.json", "train.json"),
    "test": ("something-something-v2-validation.json", "validation.json"),
}


class Video(NamedTuple):
    """One entry of a list: the video's id, its class, and where it stands, for messages."""

    id: str
    label: int
    where: str


@dataclass(frozen=True, kw_only=True)
class SomethingV2(DataConfig):
    """Something-Something V2; classes are those of the labels file, in the order of their numbers.

    The official validation videos are test. `seed` draws `val_fraction` of train as val, class by class; trainval is
    all of train.
    """

    name: ClassVar[str] = "ssv2"
    root: str | None = None
    val_fraction: float = 0.1
    seed: int = 0
    decoder: str = "auto"

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)

    def load(self, split: str) -> ImageDataset:
        """Load the videos of `split`; one ValueError names every problem of the lists and every missing video."""
        check_split(split)
        root = find_root(self.root, self.name)
        files = {part: _list_file(root, names) for part, names in LIST_NAMES.items()}
        problems: list[str] = []
        classes = read_labels(files["labels"], problems)
        lists = {part: read_list(files[part], classes, problems) for part in ("train", "test")} if classes else {}
        seen: dict[str, str] = {}
        for video in (video for part in lists.values() for video in part):
            if seen.setdefault(video.id, video.where) != video.where:
                problems.append(f"{video.where}: video {quote(video.id)} is already in {seen[video.id]}")
        found = _files(root)
        paths = {part: _find(root, found, videos, problems) for part, videos in lists.items()}
        raise_problems(f"data={self.name} data.root={self.root}", problems)

        part = "test" if split == "test" else "train"
        labels = [video.label for video in lists[part]]
        numbers = choose(split, labels, self.val_fraction, self.seed)
        chosen = [paths[part][number] for number in numbers]
        return VideoFiles(chosen, [labels[number] for number in numbers], classes, decoder=self.decoder)


def read_labels(file: Path, problems: list[str]) -> list[str]:
    """Read class names in label order from `{"Approaching something": "0", ...}`; with all numbers from 0 on."""
    content = _json(file, problems)
    if not isinstance(content, dict) or not content:
        if content is not None:
            problems.append(f"{file}: wanted an object of class: number, got {quote(str(content))}")
        return []
    names: dict[int, str] = {}
    before = len(problems)
    for name, value in content.items():
        number = int(value) if str(value).isdecimal() and len(str(value)) < 9 else -1
        if not 0 <= number < len(content):
            problems.append(f"{file}: {quote(name)}: number {quote(str(value))} is not one of 0 to {len(content) - 1}")
        elif names.setdefault(number, name) != name:
            problems.append(f"{file}: {quote(name)}: number {number} is that of {quote(names[number])} already")
    return [names[number] for number in sorted(names)] if len(problems) == before else []


def read_list(file: Path, classes: Sequence[str], problems: list[str]) -> list[Video]:
    """Read the videos of `[{"id": "78687", "template": "Holding [something]", ...}, ...]`, without opening files."""
    content = _json(file, problems)
    if not isinstance(content, list) or not content:
        if content is not None:
            problems.append(f"{file}: wanted a list of objects with id and template, got {quote(str(content))}")
        return []
    place, suggest = {name: label for label, name in enumerate(classes)}, Suggestions(classes)
    videos = []
    for number, entry in enumerate(content, start=1):
        where = f"{file}, entry {number}"
        number_or_text = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(number_or_text, str | int) or not isinstance(name, str):
            problems.append(f"{where}: wanted an object with id and template, got {quote(str(entry))}")
            continue
        video, name = str(number_or_text), name.replace("[", "").replace("]", "")
        if name in place:
            videos.append(Video(video, place[name], where))
        else:
            text = f"unknown class {quote(name)}{suggest(name)}: the labels file does not have it"
            problems.append(f"{where} (video {quote(video)}): {text}")
    return videos


def _json(file: Path, problems: list[str]) -> Any:
    """Read a json file; None if it cannot be read."""
    lines = read_lines(file, problems)
    if not lines:
        return None
    try:
        return parse_json("\n".join(lines))
    except ValueError as error:
        problems.append(f"{file}: not readable as json ({error})")
        return None


def _list_file(root: Path, names: tuple[str, ...]) -> Path:
    for folder in LIST_FOLDERS:
        for name in names:
            if (root / folder / name).is_file():
                return root / folder / name
    places = ", ".join(str(root / folder) for folder in LIST_FOLDERS)
    raise FileNotFoundError(f"data=ssv2: wanted {' or '.join(names)} in one of {places}")


def _files(root: Path) -> dict[str, str]:
    """List the videos that are there, their paths below the root by id, whatever the extension."""
    found: dict[str, str] = {}
    for folder in VIDEO_FOLDERS:
        if (root / folder).is_dir():
            for name in sorted(os.listdir(root / folder), reverse=True):  # noqa: PTH208  200,000 names; .webm first
                stem, extension = os.path.splitext(name)  # noqa: PTH122
                if extension.lower() in VIDEO_EXTENSIONS:
                    found.setdefault(stem, os.path.join(folder, name))  # noqa: PTH118
    return found


def _find(root: Path, found: dict[str, str], videos: list[Video], problems: list[str]) -> list[str]:
    """Find full paths of the videos; what is missing or empty goes to `problems`."""
    check = VideoCheck(root)
    paths = []
    for video, _, where in videos:
        path = found.get(video, f"{VIDEO_FOLDERS[0]}/{video}.webm")
        if trouble := check.find_problem(path):
            problems.append(f"{where}: {trouble}")
        paths.append(os.path.join(root, path))  # noqa: PTH118
    return paths
