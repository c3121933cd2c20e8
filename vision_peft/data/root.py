"""The folder of a dataset. Nothing here imports torch, so that a folder that is not there is answered at once."""

import os
from pathlib import Path

from vision_peft.home_paths import expand_home
from vision_peft.suggest import did_you_mean


def name_folder(root: str) -> Path:
    """Return the absolute path of a folder in one spelling: without `..`, a link by its own name."""
    typed = expand_home(root).absolute()
    if ".." not in typed.parts:
        return typed
    folder = Path(os.path.normpath(typed))
    if not typed.exists() or (folder.exists() and folder.samefile(typed)):
        return folder
    return typed.resolve()  # behind a link `..` leads elsewhere


def find_root(root: str | None, family: str) -> Path:
    """Return `data.root` as an absolute path without `..`.

    Raises:
        ValueError: no root is given.
        OSError: there is nothing, or a file; the message names the folder that exists above it and a close name in it.
    """
    if not root:
        raise ValueError(f"data={family} needs the folder of the data: give data.root=FOLDER")
    folder = name_folder(root)
    if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
        raise ValueError(f"data.root={str(folder)!a}: a folder whose name is not UTF-8; rename it")
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"data.root={root} is a file: data={family} needs a folder")
    nearest = next(parent for parent in folder.parents if parent.is_dir())
    siblings = [path.name for path in nearest.iterdir()]
    hint = did_you_mean(folder.relative_to(nearest).parts[0], siblings, prefix=f"{nearest}/")
    if root.startswith("~") and str(expand_home(root)) == root:
        hint = f"; there is no user {root[1:].partition(os.sep)[0]}"
    if "\\" in root and os.sep == "/":
        hint = "; write / in place of \\, and a folder of Windows by the path that it has on this machine"
    raise FileNotFoundError(f"data.root={root} is not a folder: {nearest} exists, {folder} does not{hint}")
