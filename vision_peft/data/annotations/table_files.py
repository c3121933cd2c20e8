"""Open a folder of parquet files, arrow files or class folders with `datasets`, and say what of it is left out."""

import contextlib
import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision_peft.data.annotations.arrow_files import SPLITS, find_arrow_files, open_arrow_files
from vision_peft.data.annotations.split_names import SPLIT_OF
from vision_peft.data.annotations.walk_folders import Tree, is_hidden, walk_folder
from vision_peft.home_paths import expand_home
from vision_peft.printable import name_some, warn

_WORDS = SPLIT_OF | dict.fromkeys(("eval", "evaluation"), "test")  # that datasets takes for splits
_TABLES = (".parquet", ".arrow")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")  # which datasets looks into
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of class folders
_NAMED = 3  # files that a message names


@dataclass(frozen=True)
class TableFolder:
    """The tables of a folder by the names of their splits, and what lies beside them.

    Args:
        tables: of the module `datasets`.
        kind: what they are read from: arrow, parquet or imagefolder.
        tree: all that is below the folder.
        unread: names of arrow and parquet files that hold rows, and are not read.
    """

    tables: Mapping[str, Any]
    kind: str
    tree: Tree = field(default=Tree([], [], [], []), repr=False)
    unread: Sequence[str] = ()

    def warn_of_left_out(self, where: str, read: Collection[str]) -> None:
        """Warn of tables that are not read, or in class folders of all files but those `read`, relative to the root."""
        if self.kind != "imagefolder":
            if self.unread:
                count = f"{len(self.unread)} file{'s' * (len(self.unread) > 1)} of tables"
                warn(f"{where}: {count} left out: {name_some(self.unread, _NAMED)}", stacklevel=3)
            return
        there = [name for name in self.tree.files if name not in read and Path(name).name not in _METADATA]
        kinds = Counter("hidden" if is_hidden(name) else _find_extension(name) for name in there)
        kinds.update(f"{_find_extension(name)} behind links" for name in self.tree.linked)
        for extension in _ARCHIVES:
            kinds.pop(extension, None)
        if kinds:
            count = f"{kinds.total():,} file{'s' * (kinds.total() > 1)}"
            listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common(20))
            links = f" (links to folders: {name_some(self.tree.links, _NAMED)})" if self.tree.linked else ""
            warn(f"{where}: {count} left out: {listed}{links}; data=folder reads more kinds, and links", stacklevel=3)


@contextlib.contextmanager
def as_one_error(where: str) -> Iterator[None]:
    """Raise whatever `datasets` raises as a ValueError or OSError of one line that begins with `where`."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"{where}: datasets cannot read it: {error}") from error
    except Exception as error:  # of any kind: what it converts is other people's
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{where}: datasets cannot read it: {kind}{error}") from error


def open_table_folder(datasets: Any, root: Path, cache: str | None, where: str) -> TableFolder:
    """Open what is below `root` with the module `datasets`, arrow files in place, the rest converted into `cache`.

    Raises:
        ValueError: folders or files that look like splits and are not read as such, what `datasets` refuses, or a
            `cache` below `root`.
        OSError: a file or folder cannot be read.
    """
    _check_cache(root.resolve(), cache, expand_home(cache or datasets.config.HF_DATASETS_CACHE).resolve())
    tree = walk_folder(root)
    there = [name for name in tree.files if not is_hidden(name)]
    tables = [name for name in (*there, *tree.linked) if name.lower().endswith(_TABLES) and not is_hidden(name)]
    if SPLITS in there or any(name.endswith(".arrow") for name in there):  # before parquet: what save_to_disk leaves
        found, left = find_arrow_files(root, tree)
        with as_one_error(where):
            opened = {split: open_arrow_files(datasets, files) for split, files in found.items()}
        return TableFolder(opened, "arrow", tree, [*left, *(name for name in tables if not name.endswith(".arrow"))])
    kind = "parquet" if any(name.endswith(".parquet") for name in there) else "imagefolder"
    _check_names(root, tree, there if kind == "imagefolder" else tables)
    base = root.resolve()
    # datasets takes it for a pattern; a name without one stays as it is, and with it the place in the cache
    folder = glob.escape(str(base)) if glob.has_magic(str(base)) else str(root)
    with as_one_error(where):
        builder = datasets.load_dataset_builder(kind, data_dir=folder, cache_dir=cache)
        builder.download_and_prepare()
        opened = builder.as_dataset()
    given = [*builder.config.data_files.values()] if kind == "parquet" else []
    read = {os.path.relpath(path, base) for paths in given for path in paths}
    return TableFolder(opened, kind, tree, [name for name in tables if name not in read])


def _check_cache(root: Path, typed: str | None, cache: Path) -> None:
    """Raise ValueError where what `datasets` keeps would lie in the data, and be read as such the next time."""
    if cache == root or (cache.is_relative_to(root) and not is_hidden(cache.relative_to(root).as_posix())):
        told = f"data.cache={typed}" if typed else f"the cache of datasets, {cache},"
        raise ValueError(f"{told} lies in the data, {root}, and would be read as data: give another data.cache")


def _check_names(root: Path, tree: Tree, files: Sequence[str]) -> None:
    """Raise ValueError where what lies directly in `root` looks like splits that `datasets` does not see as such."""
    links = [name for name in tree.links if name.lower() in _WORDS]
    if links:
        raise ValueError(
            f"{root / links[0]} is a link to a folder, which datasets does not follow: put the folder itself there, or "
            "give data=folder, which follows it"
        )
    first = {name.partition("/")[0] for name in files}
    words = {name: match[0] for name in first if (match := re.match(r"[A-Za-z]+", name)) and match[0].lower() in _WORDS}
    odd = sorted(name for name, word in words.items() if not word.islower())
    if odd and len({_WORDS[word.lower()] for word in words.values()}) > 1:
        raise ValueError(
            f"{root}: {name_some(odd, _NAMED)} would not be read as a split of its own: write its name in small letters"
        )


def _find_extension(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "no extension"  # noqa: PTH122
