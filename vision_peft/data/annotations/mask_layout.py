"""Find where images and masks lie: in two folders with lists of the splits, or in a folder for each split."""

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from vision_peft.data.annotations.class_folders import list_subfolders
from vision_peft.data.annotations.split_names import SPLITS, check_unread, choose_splits, describe_unread
from vision_peft.printable import warn

LIST = ".txt"


class MaskLayout(NamedTuple):
    """Where a set of images with masks lies.

    Args:
        folders: of images and of masks by split, in the order of `SPLITS`; the whole under "" where lists or a draw
            divide it.
        lists: files of names by split; none where folders or a draw divide.
    """

    folders: dict[str, tuple[Path, Path]]
    lists: dict[str, Path]


def find_layout(root: Path, images: str, masks: str, splits: str, extensions: Collection[str]) -> MaskLayout:
    """Find `ROOT/images` and `ROOT/masks` with lists, with a folder for each split in both, or those around them.

    The names of splits are those of `split_names.py`. What lies beside the folders and lists that are read gets a
    warning.

    Raises:
        FileNotFoundError: none of these is there.
        ValueError: folders or lists that look like splits and would not be read as such.
    """
    if around := _find_around(root, images, masks):
        return MaskLayout(around, {})
    whole = root / images, root / masks
    absent = [str(folder) for folder in whole if not folder.is_dir()]
    if absent:
        raise FileNotFoundError(
            f"there is no folder {' and no '.join(absent)}: wanted {root}/{images} and {root}/{masks}, or both in "
            f"{root}/train, {root}/val and {root}/test; data.images and data.masks name the folders"
        )
    if lists := _find_lists(root / splits):
        return MaskLayout({"": whole}, lists)
    return MaskLayout(_find_inside(*whole, extensions) or {"": whole}, {})


def _find_around(root: Path, images: str, masks: str) -> dict[str, tuple[Path, Path]]:
    """Find folders of splits in the root that hold folders of images."""
    there = list_subfolders(root)
    holding = [name for name in there if (root / name / images).is_dir()]
    found = choose_splits(holding, root)
    unread = [name for name in there if name not in found.values()]
    if found:
        check_unread(root, [name for name in unread if list_subfolders(root / name)], found)
        if ignored := [name for name in unread if name in (*holding, images, masks)]:
            warn(describe_unread(root, found.values(), ignored), stacklevel=5)
    elif not (root / images).is_dir():
        check_unread(root, holding, found)
    return {split: (root / name / images, root / name / masks) for split, name in found.items()}


def _find_lists(folder: Path) -> dict[str, Path]:
    """Find lists of the names of each split."""
    there = sorted(path for path in folder.iterdir() if path.suffix.lower() == LIST) if folder.is_dir() else []
    lists = {path.stem: path for path in there if path.is_file() and not path.name.startswith(".")}
    found = choose_splits(lists, folder)
    unread = [name for name in lists if name not in found.values()]
    check_unread(folder, unread, found)
    if found and unread:
        warn(describe_unread(folder, *_name_files(lists, found.values(), unread)), stacklevel=5)
    return {split: lists[name] for split, name in found.items()}


def _name_files(lists: dict[str, Path], *groups: Iterable[str]) -> list[list[str]]:
    return [[lists[name].name for name in group] for group in groups]


def _find_inside(images: Path, masks: Path, extensions: Collection[str]) -> dict[str, tuple[Path, Path]]:
    """Find folders of splits in the folder of images, and those of the same splits in that of masks."""
    there = list_subfolders(images)
    found, masked = choose_splits(there, images), choose_splits(list_subfolders(masks), masks)
    unread = [name for name in there if name not in found.values()]
    check_unread(images, unread, found)
    if not found:
        return {}
    kinds = Counter(path.suffix.lower() for path in images.iterdir() if path.is_file() and path.name[0] != ".")
    beside = [f"{count:,} {kind} beside them" for kind, count in sorted(kinds.items()) if kind in extensions]
    if unread or beside:
        warn(describe_unread(images, found.values(), [*unread, *beside]), stacklevel=5)
    return {split: (images / name, masks / masked.get(split, name)) for split, name in found.items()}


def list_absent(layout: MaskLayout, root: Path, splits: str) -> list[str]:
    """Describe what is missing where some splits are there, but not train."""
    if layout.lists and "train" not in layout.lists:
        named = ", ".join(sorted(file.name for file in layout.lists.values()))
        return [f"{root / splits}: there is no list train{LIST} beside {named}"]
    if not layout.folders.keys() & {"", "train"}:
        return [f"{root}: there is no folder train beside {', '.join(sorted(set(SPLITS) & layout.folders.keys()))}"]
    return []
