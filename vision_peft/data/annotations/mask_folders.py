"""Find images and their masks: in folders, by the names that they have in common, and by lists of names."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vision_peft.data.annotations.list_files import read_lines
from vision_peft.data.annotations.scan_folder import FileKind, FolderScan, list_counts
from vision_peft.data.annotations.split_by_name import SplitByName
from vision_peft.data.decoding.image_kinds import EXTENSIONS, MISSING_PLUGINS
from vision_peft.data.item_names import to_nfc
from vision_peft.data.problems import quote
from vision_peft.printable import name_some, warn
from vision_peft.suggest import Suggestions

_NAMED = 5


@dataclass
class MaskItems:
    """Images and masks by their names, in NFC, below a root, and the names that each split has."""

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
    folder: Path,
    problems: list[str],
    suffix: str = "",
    what: str = "image",
    extensions: Collection[str] = EXTENSIONS,
) -> dict[str, str]:
    """List the images below a folder by name: the path from there without extension and `suffix`, in NFC.

    Links are followed, hidden files are not read. Images that are left out are counted in a warning, masks are not: an
    image without its mask is a problem anyway.

    Args:
        problems: get two files of one name, and what cannot be listed.
    """
    if not folder.is_dir():
        return {}
    scan = FolderScan(FileKind(what, frozenset(extensions), MISSING_PLUGINS, lambda path: False), True, ())
    files, left_out = scan.list_files(str(folder))
    problems += scan.problems
    found: dict[str, str] = {}
    for file in sorted(files, key=_as_walked):
        stem = os.path.splitext(file)[0]  # noqa: PTH122
        if not stem.endswith(suffix):
            left_out[f"not named *{suffix}"] += 1
            continue
        path, name = os.path.join(folder, file), to_nfc(stem.removesuffix(suffix))  # noqa: PTH118
        if (other := found.setdefault(name, path)) != path:
            problems.append(f"{path}: {Path(other).name} in this folder has the same name: keep one {what} of a name")
    if what == "image" and left_out:
        warn(_describe_left_out(folder, scan, left_out), stacklevel=5)
    return found


def _as_walked(path: str) -> tuple[tuple[bool, str], ...]:
    """Return what sorts paths as folders are walked: the files of a folder before those of the folders in it."""
    *folders, name = path.split("/")
    return (*((True, folder) for folder in folders), (False, name))


def _describe_left_out(folder: Path, scan: FolderScan, left_out: Counter[str]) -> str:
    """Say in a line what was left out of a folder, and what would read it."""
    packages = sorted({scan.kind.missing[extension] for extension in scan.unreadable})
    advice = f" (pip install {' '.join(packages)} to read images that are among them)" * bool(packages)
    count = left_out.total()
    return f"{folder}: {count:,} file{'s' * (count > 1)} left out: {list_counts(left_out, most=20)}{advice}"


def read_names(file: Path, images: Mapping[str, str], problems: list[str]) -> Iterator[str]:
    """Read a list of names of `images`, one a line, with or without an extension; problems name file and line."""
    suggest, seen = Suggestions(list(images)), set[str]()
    for number, line in enumerate(read_lines(file, problems), start=1):
        text = to_nfc(line.strip())
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
