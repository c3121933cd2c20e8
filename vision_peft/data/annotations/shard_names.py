"""Which tar shards below a folder are those of which split, by patterns or by their names."""

import glob
import os
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

from vision_peft.data.annotations.split_names import ANY_SPLIT, SPLIT_OF, SPLITS
from vision_peft.data.annotations.walk_folders import walk_folder
from vision_peft.home_paths import expand_home
from vision_peft.printable import name_some

_PART = re.compile(f"({ANY_SPLIT})(?![a-z])", re.IGNORECASE)  # that a shard or its folder starts with
_PACKED = re.compile(r".*\.(?:tar\.(?:gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz|tzst|tar)", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_NAMED = 3  # shards that a message names


class Shards(NamedTuple):
    """The shards of every split that has some, and the names of those that belong to none."""

    of: dict[str, list[str]]
    unread: list[str]


def find_shards(root: Path, where: str) -> Shards:
    """Find the shards below `root`, links to folders followed; where no name says a split, all are train.

    Raises:
        FileNotFoundError: there is none, or none of train.
        ValueError: shards that are compressed or have another ending, which would be left out.
    """
    tree = walk_folder(root)
    names = [*tree.files, *tree.linked, *tree.folders]  # a folder with such a name is told where it is opened
    everything = sorted(str(root / name) for name in names if name.endswith(".tar"))
    packed = sorted(name for name in names if _PACKED.fullmatch(name) and not name.endswith(".tar"))
    if packed:
        raise ValueError(
            f"{where}: {name_some(packed, _NAMED)} would not be read, wanted plain archives that end in .tar: "
            "unpack by gunzip (bunzip2, unxz) or rename, or name the shards to read with data.train=PATTERN"
        )
    if not everything:
        raise FileNotFoundError(f"{where} holds no shards (*.tar)")
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    unread: list[str] = []
    for path in everything:
        below = Path(path).relative_to(root)
        named = _PART.match(below.name) or _PART.match(below.parts[0])
        if named is None:
            unread.append(str(below))
        else:
            found[SPLIT_OF[named[1].lower()]].append(path)
    if len(unread) == len(everything):
        return Shards({"train": everything}, [])
    if not found["train"]:
        raise FileNotFoundError(f"{where} holds no shards of train: name them with data.train=PATTERN")
    return Shards({part: paths for part, paths in found.items() if paths}, unread)


def expand_patterns(root: Path, given: Mapping[str, str | None]) -> Shards:
    """List the shards that the patterns of each split name below `root`, in the order of the patterns.

    Raises:
        FileNotFoundError: a pattern names nothing that is there.
        ValueError: a range in braces that is none, a shard that a split has twice, or that train shares with another.
    """
    found = {part: _expand(root, part, patterns) for part, patterns in given.items() if patterns}
    first: dict[str, str] = {}  # split of a shard, by its real path
    for part, paths in found.items():
        own: set[str] = set()
        for path in paths:
            real = os.path.realpath(path)
            if real in own:
                raise ValueError(f"data.{part}={given[part]} names {path} twice")
            if first.setdefault(real, part) == "train" != part:
                raise ValueError(f"data.train={given['train']} and data.{part}={given[part]} both name {path}")
            own.add(real)
    return Shards(found, [])


def _expand(root: Path, part: str, patterns: str) -> list[str]:
    found: list[str] = []
    for pattern in patterns.split("::"):
        ranges = [_count(first, last) for first, last in _RANGE.findall(pattern)]
        pieces = _RANGE.sub("\0", pattern).split("\0")
        for numbers in product(*ranges):
            filled = pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))
            typed = str(expand_home(filled))
            shard = os.path.join(root, typed)  # noqa: PTH118
            if glob.has_magic(filled):
                paths = sorted(glob.glob(os.path.join(glob.escape(str(root)), typed)))  # noqa: PTH118, PTH207
            else:
                paths = [shard] * Path(shard).is_file()
            if not paths:
                raise FileNotFoundError(f"data.{part}={patterns}: there is no shard {shard}")
            found += paths
    return found


def _count(first: str, last: str) -> list[str]:
    """List the numbers of a range in braces, as long as they are written there."""
    if not int(first) <= int(last) < int(first) + 10**6:
        raise ValueError(f"wanted {{first..last}} with at most a million numbers, got {{{first}..{last}}}")
    return [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
