"""Find images and their masks: in folders, by the names that they have in common, and by lists of names."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vision_peft.data.annotations.list_files import read_lines
from vision_peft.data.annotations.split_by_name import SplitByName
from vision_peft.data.decoding.image_kinds import EXTENSIONS
from vision_peft.data.problems import quote
from vision_peft.printable import name_some, warn
from vision_peft.suggest import Suggestions

_DEEPEST = 8  # folders inside one another
_NAMED = 5


@dataclass
class MaskItems:
    """Images and masks by their names, below a root, and the names that each split has."""

    images: dict[str, str]  # name -> path
    masks: dict[str, str]
    splits: dict[str, list[str]] = field(default_factory=dict)

    def draw(self, divided: str, shares: Mapping[str, float], seed: int, where: str) -> None:
        """Divide the split `divided` into train and the parts `shares`, by the names of its items."""
        names = self.splits.pop(divided)
        drawn = SplitByName(names, [0] * len(names), shares, seed, where)
        for part in drawn.parts:
            drawn.check(part, [""])
            self.splits[part] = [names[item] for item in drawn.parts[part].tolist()]

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        """Return the paths of images and masks of a split; trainval is train with val behind it."""
        parts = ("train", "val") if split == "trainval" else (split,)
        names = [name for part in parts for name in self.splits[part]]
        return [self.images[name] for name in names], [self.masks[name] for name in names]


def list_names(
    folder: Path, suffix: str = "", deep: bool = True, extensions: Collection[str] = EXTENSIONS
) -> dict[str, str]:
    """List the images below a folder by name, the path from there without extension and `suffix`; no hidden ones."""
    found: dict[str, str] = {}
    for path, folders, files in os.walk(folder, followlinks=False):
        below = os.path.relpath(path, folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not deep or below.count(os.sep) >= _DEEPEST:
            folders.clear()
        for file in sorted(files):
            stem, extension = os.path.splitext(file)  # noqa: PTH122
            if extension.lower() in extensions and not file.startswith(".") and stem.endswith(suffix):
                name = stem[: len(stem) - len(suffix)]
                found[name if below == "." else f"{Path(below).as_posix()}/{name}"] = os.path.join(path, file)  # noqa: PTH118
    return found


def read_names(file: Path, images: Mapping[str, str], problems: list[str]) -> Iterator[str]:
    """Read a list of names of `images`, one a line, with or without an extension; problems name file and line."""
    suggest, seen = Suggestions(list(images)), set[str]()
    for number, line in enumerate(read_lines(file, problems), start=1):
        text = line.strip()
        if not text:
            continue
        stem, extension = os.path.splitext(text)  # noqa: PTH122
        name = text if text in images or extension.lower() not in EXTENSIONS else stem
        if name not in images:
            problems.append(f"{file}:{number}: there is no image {quote(text)}{suggest(name)}")
        elif name in seen:
            problems.append(f"{file}:{number}: {quote(text)} is listed already")
        else:
            seen.add(name)
            yield name


def pair(items: MaskItems, where: Mapping[str, Path], problems: list[str]) -> None:
    """Leave out images without a mask, each of which is a problem; masks without an image get a warning."""
    wanted = [name for names in items.splits.values() for name in names]
    missing = [name for name in wanted if name not in items.masks]
    problems += [f"{items.images[name]}: its mask is missing in {where['masks']}" for name in missing]
    for split, names in items.splits.items():
        items.splits[split] = [name for name in names if name in items.masks]
    if extra := sorted(items.masks.keys() - items.images.keys()):
        few = f"{len(extra)} mask{'s' * (len(extra) > 1)} of no image are left out"
        warn(f"{where['masks']}: {few}: {name_some(extra[:_NAMED])}", stacklevel=3)
