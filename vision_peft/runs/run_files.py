"""Which files a run leaves in its folder, and what to make of a folder that may come from someone else."""

import shutil
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from vision_peft.safe_files import check_folder

LOCK = ".lock"
UNREAD = ("wandb",)  # holds links of its own; what Weights & Biases writes there is new each time
# What a run writes, as patterns by folder, with .tmp behind it while it is written. `overwrite=true` deletes no more.
WRITTEN = {
    ".": (
        "config.yaml",
        "data.json",
        "memory.json",
        "log.txt",
        "metrics.jsonl",
        "bad_files.txt",
        "confusion.csv",
        "result.json",
        "status.json",
        "REQUEUE",
    ),
    "adapter": ("adapter.safetensors", "adapter.json"),
    "state": ("step_*", "latest"),
    "events": ("events.out.tfevents.*",),
    "wandb": ("*",),
}


def check_run_folder(folder: Path) -> None:
    """Accept a run folder that may be written to: a folder of files and folders, of which none leads elsewhere.

    Raises:
        ValueError: a link, a pipe or the like; it is named, and nothing was opened.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: a run is written to a folder of its own, remove it")
    check_read_folder(folder)


def check_read_folder(folder: Path) -> None:
    """Accept a run folder that the user named, perhaps by a link, to read from; raises as `check_run_folder` does."""
    check_folder(folder, UNREAD)


def holds_only(folder: Path, names: Collection[str]) -> bool:
    """Whether nothing is in `folder` but files of these names."""
    return all(path.name in names for path in folder.iterdir())


def empty_run_folder(folder: Path) -> None:
    """Delete what a run wrote to its checked folder and leave the rest, the lock among it."""
    for inner, patterns in WRITTEN.items():
        place = folder / inner
        for path in list(place.iterdir()) if place.is_dir() else ():
            if not any(fnmatch(path.name.removesuffix(".tmp"), pattern) for pattern in patterns):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if inner != "." and place.is_dir() and not any(place.iterdir()):
            place.rmdir()
