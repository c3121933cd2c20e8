"""Food-101: 750 training and 250 test images of each of 101 dishes, at most 512 pixels wide and high.

Bossard et al., "Food-101 - Mining Discriminative Components with Random Forests", 2014,
https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101. The official archive holds
`food-101/images/<class>/<id>.jpg` and the lists `food-101/meta/{train,test}.json` (class -> [`<class>/<id>`]) and
`.txt` (`<class>/<id>` a line); the json is read where there is one. The training labels are noisy by intent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from torchvision.datasets import Food101 as TorchvisionFood101

from vision_peft.data.annotations.download import Official
from vision_peft.data.annotations.draw_split import choose
from vision_peft.data.annotations.list_files import MAX_LIST, read_lines
from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.annotations.train_test import OfficialHalves
from vision_peft.data.config import check_split, find_root
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.problems import quote, raise_problems
from vision_peft.printable import warn
from vision_peft.safe_files import read_file
from vision_peft.strict_json import parse_json
from vision_peft.suggest import Suggestions

BASE = "food-101"
NUM_CLASSES = 101
NUM_IMAGES = {"train": 75_750, "test": 25_250}


class _Entry(NamedTuple):
    where: str  # for messages
    path: str  # <class>/<id>
    group: str | None  # class that the json file puts the path under


@dataclass(frozen=True, kw_only=True)
class Food101(OfficialHalves):
    """Food-101 decoded from its files; classes are the dishes in alphabetical order, as torchvision has them."""

    name: ClassVar[str] = "food101"
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False

    def load(self, split: str) -> ImageDataset:
        """Load the images of `split`; one ValueError names every problem of both lists, or every missing image."""
        check_split(split)
        base = _find(find_root(self.root, self.name), self.download)
        files = {part: _list_file(base / "meta", part) for part in ("train", "test")}
        problems: list[str] = []
        parts = {part: list(_entries(file, problems)) for part, file in files.items()}
        classes = sorted({_class(entry) for entry in parts["train"]})
        if parts["train"] and len(classes) != NUM_CLASSES:
            problems.append(
                f"{files['train']}: {len(classes)} classes, Food-101 has {NUM_CLASSES}; "
                f"read another set of images with data=folder or data=list"
            )
        _check_entries(parts["train"] + parts["test"], classes, problems)
        raise_problems(f"data.root={self.root}", problems)

        part = "test" if split == "test" else "train"
        place = {name: label for label, name in enumerate(classes)}
        labels = [place[_class(entry)] for entry in parts[part]]
        numbers = choose(split, labels, self.val_fraction, self.seed)
        images = PathCheck(base / "images")
        chosen = [parts[part][number] for number in numbers]
        found = ((entry.where, images.find_problem(f"{entry.path}.jpg")) for entry in chosen)
        raise_problems(f"{base / 'images'}, split {split}", [f"{where}: {text}" for where, text in found if text])
        if len(labels) != NUM_IMAGES[part]:
            warn(f"{files[part]}: {len(labels):,} images, Food-101 has {NUM_IMAGES[part]:,}", stacklevel=2)
        return ImageFiles(
            [base / "images" / f"{entry.path}.jpg" for entry in chosen],
            [labels[number] for number in numbers],
            classes,
            max_pixels=self.max_pixels,
            exif_rotation=self.exif_rotation,
        )


def _find(root: Path, download: bool) -> Path:
    """Find the folder food-101; download it if that is wanted and it is not there."""
    needed = [f"{BASE}/images", f"{BASE}/meta"]

    def read(folder: Path, download: bool) -> Path:
        if download:
            TorchvisionFood101(folder, download=True)
        if not all((folder / path).is_dir() for path in needed):
            raise RuntimeError("Food-101 is not there")
        return folder / BASE

    official = Official(family="food101", files=dict.fromkeys(needed), archive=TorchvisionFood101._URL)
    return official.read(root, read, download)


def _list_file(meta: Path, part: str) -> Path:
    for file in (meta / f"{part}.json", meta / f"{part}.txt"):
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{meta} has neither {part}.json nor {part}.txt: unpack {TorchvisionFood101._URL} again, or delete "
        f"{meta.parent} and have it downloaded with data.download=true"
    )


def _entries(file: Path, problems: list[str]) -> Iterator[_Entry]:
    if file.suffix == ".txt":
        for number, line in enumerate(read_lines(file, problems), start=1):
            if line.strip():
                yield _Entry(f"{file}:{number}", line.strip(), None)
        return
    try:
        content = parse_json(read_file(file, MAX_LIST))
    except ValueError as error:
        problems.append(f"{file}: no JSON: {error}")
        return
    if not isinstance(content, dict) or not content:
        problems.append(f"{file}: wanted an object of classes, each with a list of '<class>/<id>'")
        return
    for group, paths in content.items():
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            problems.append(f"{file}: class {quote(group)}: wanted a list of '<class>/<id>'")
            continue
        for number, path in enumerate(paths, start=1):
            yield _Entry(f"{file}: class {quote(group)}, image {number}", path, group)


def _class(entry: _Entry) -> str:
    return entry.path.split("/")[0] if entry.group is None else entry.group


def _check_entries(entries: list[_Entry], classes: list[str], problems: list[str]) -> None:
    """Append what is wrong with the form of entries, their classes, and images that are listed twice."""
    known, suggest = set(classes), Suggestions(classes)
    first: dict[str, str] = {}
    for where, path, group in entries:
        name = path.split("/")[0]
        if path.count("/") != 1 or name in ("", ".", "..") or "\0" in path:
            problems.append(f"{where}: wanted '<class>/<id>', got {quote(path)}")
        elif group is not None and name != group:
            problems.append(f"{where}: image {quote(path)} is one of class {quote(name)}")
        elif name not in known:
            among = f"is not among the {len(classes)} classes of train{suggest(name)}"
            problems.append(f"{where}: class {quote(name)} {among}")
        elif first.setdefault(path, where) != where:
            problems.append(f"{where}: image {quote(path)} is listed already: {first[path]}")
