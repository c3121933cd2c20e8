"""Everything below a folder, what lies behind links to folders too, so that a reader can say what it leaves out."""

import os
from pathlib import Path
from typing import NamedTuple

from vision_peft.printable import warn


class Tree(NamedTuple):
    """Names of what is below a folder, relative to it, sorted, with forward slashes.

    Args:
        files: everything that is no folder, and not behind a link.
        linked: the same behind links to folders.
        folders: all folders.
        links: folders that are links.
    """

    files: list[str]
    linked: list[str]
    folders: list[str]
    links: list[str]


def walk_folder(root: Path) -> Tree:
    """List what is below `root`, hidden names too.

    A folder that several ways lead to is listed once: links into what is listed anyway are not followed, nor is one
    to a folder that it is in, with a warning.

    Raises:
        OSError: a folder cannot be listed.
    """
    tree = Tree([], [], [], [])
    entered, links = [os.path.realpath(root)], list[tuple[str, str]]()
    _list(str(root), "", tree.files, tree, links)
    while links:
        name, path = links.pop(0)
        real = os.path.realpath(path)
        if any(folder != real and _is_below(folder, real) for folder in entered):
            warn(f"{path}: a link to a folder that it is in; what is there is not read", stacklevel=3)
        elif not any(_is_below(real, folder) for folder in entered):
            entered.append(real)
            _list(path, f"{name}/", tree.linked, tree, links)
    for names in tree:
        names.sort()
    return tree


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder on the way to it, is hidden."""
    return name.startswith(".") or "/." in name


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _list(folder: str, below: str, files: list[str], tree: Tree, links: list[tuple[str, str]]) -> None:
    """List a folder and all in it; links to folders are put on `links`, in the order of their names."""
    waiting, found = [(folder, below)], list[tuple[str, str]]()
    while waiting:
        path, prefix = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                if not entry.is_dir():
                    files.append(name)
                    continue
                tree.folders.append(name)
                if entry.is_symlink():
                    tree.links.append(name)
                    found.append((name, entry.path))
                else:
                    waiting.append((entry.path, f"{name}/"))
    links += sorted(found)
