"""Read a tree of class folders, `ROOT/{train,val,test}/<class>/*` or `ROOT/<class>/*`, in one pass over its folders."""

import os
from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision_peft.data.annotations.file_names import describe_not_utf8, list_respelt, split_utf8
from vision_peft.data.annotations.scan_folder import FileKind, FolderScan, list_counts
from vision_peft.data.annotations.split_items import SplitItems
from vision_peft.data.annotations.split_names import SPLITS, check_unread, choose_splits, describe_unread
from vision_peft.data.flat_arrays import IntArray, TextArray, TextBuilder
from vision_peft.data.item_names import name_below, to_nfc
from vision_peft.printable import for_shell, name_some, warn
from vision_peft.suggest import Suggestions

LIST_EXTENSIONS = (".csv", ".tsv", ".json")
WHOLE = "all"  # the part of a tree without split folders
_NAMED = 3  # files that a message names


class OtherKind(NamedTuple):
    """Files that another family reads, and what to type for it."""

    extensions: frozenset[str]
    advice: str


def read_class_folders(
    root: Path,
    kind: FileKind,
    problems: list[str],
    *,
    other: OtherKind,
    recursive: bool = False,
    leave_out: Collection[str] = (),
    open_set: bool = False,
) -> SplitItems:
    """Read the files of all class folders below `root`, with parts named as its split folders, or `WHOLE`.

    The class names are those of train, in NFC and sorted; two spellings of a name are one class, with a warning. What
    is wrong is appended to `problems`; what is left out is counted in a warning. With `open_set` they are those of all
    splits, which may have different ones.

    Raises:
        ValueError, FileNotFoundError: split folders that make no sense.
    """
    scan = FolderScan(kind, recursive, leave_out)
    paths, labels, parts = TextBuilder(), array("q"), {}
    label_of: dict[str, int] = {}
    empty: list[str] = []
    suggest = Suggestions([])
    folders = find_split_folders(root) or {WHOLE: root}
    names_of: dict[str, list[str]] = {}
    for split, folder in folders.items():
        names_of[split] = _list_class_folders(folder, scan)
    if respelt := list_respelt(sorted({name for names in names_of.values() for name in names})):
        warn(
            f"{root}: folders whose names differ in their Unicode spelling alone are one class: {name_some(respelt)}",
            stacklevel=3,
        )
    known = {to_nfc(name) for names in names_of.values() for name in names} if open_set else set[str]()
    for split, folder in folders.items():
        names = names_of[split]
        if not parts:  # train, or all
            label_of = {name: label for label, name in enumerate(sorted(known) or dict.fromkeys(map(to_nfc, names)))}
            suggest = Suggestions(label_of)
            words = _find_list(root, kind) if len(names) < 2 else None
            advice = f"; the labels may be in a list: {for_shell(words)}" if words else ""
            if not names:
                scan.problems.append(f"{folder}: no class folders in it{advice}")
            elif advice:
                warn(f"{folder}: one class folder, {names[0]}{advice}", stacklevel=3)
        first = len(paths)
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  a Path a class takes longer
            label = label_of.get(to_nfc(name))
            if label is None:
                few = f"is not among the {len(label_of)} classes of train{suggest(to_nfc(name))}"
                scan.problems.append(f"{path}: class {to_nfc(name)!r} {few}")
                continue
            nested = len(scan.nested)
            files, skipped = scan.list_files(path)
            paths.add_below(f"{os.path.relpath(folder, root)}/{name}/".removeprefix("./"), files)
            labels.extend([label] * len(files))
            if not files and len(scan.nested) == nested:
                empty.append(f"{path}: no {kind.what}s in this class folder{list_counts(skipped, ' (skipped: {})')}")
        parts[split] = range(first, len(paths))
    problems += _conclude(root, scan, empty, None if len(paths) else other)
    found = paths.build(prefix=os.path.join(root, ""))  # noqa: PTH118
    names = found.without_prefix()
    if not found.data.isascii():
        names = TextArray.of(name_below(name, None) for name in names)
    return SplitItems(found, names, IntArray(np.array(labels, dtype=np.int64)), [*label_of], parts)


def find_split_folders(root: Path) -> dict[str, Path]:
    """Find the split folders of `root` by split, train first; none if the class folders are directly in it.

    Raises:
        ValueError: two folders of one split, or folders that look like splits and would not be read as such.
        FileNotFoundError: there is none of train.
    """
    there = list_subfolders(root)
    holding = [name for name in there if list_subfolders(root / name)]
    found = choose_splits(holding, root)
    unread = [name for name in there if name not in found.values()]
    check_unread(root, [name for name in holding if name in unread], found)
    if not found and len(there) > 1 and len(choose_splits(there, root)) == len(there):
        raise ValueError(
            f"{root} holds {' and '.join(there)}, and no class folders in them: sort what they hold into a folder for "
            "each class, or give lists with data=list"
        )
    if found and "train" not in found:
        listed = ", ".join(str(root / name) for name in found.values())
        raise FileNotFoundError(f"{root} has no folder train with class folders in it, only {listed}")
    if found and unread:
        warn(describe_unread(root, found.values(), unread), stacklevel=4)
    return {split: root / name for split, name in found.items()}


def list_subfolders(folder: Path) -> list[str]:
    """List the folders in `folder` that are not hidden, sorted; none where it is not a folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _find_list(root: Path, kind: FileKind) -> list[str] | None:
    """Return the overrides that read the lists of labels in `root`, if any lie there."""
    found = sorted(path.name for path in root.iterdir() if path.suffix.lower() in LIST_EXTENSIONS and path.is_file())
    lists = {split: next((name for name in found if name.startswith(split)), None) for split in SPLITS}
    train = lists["train"] or next((name for name in found if name not in lists.values()), None)
    if train is None:
        return None
    given = {"train": train, **{split: name for split, name in lists.items() if name and split != "train"}}
    words = [f"data.{split}={name}" for split, name in given.items()]
    reader = "video_list" if kind.what == "video" else "list"
    drawn = [] if "test" in given or kind.what == "video" else ["data.test_fraction=0.2"]
    return [f"data={reader}", f"data.root={root}", *words, *drawn]


def _list_class_folders(folder: Path, scan: FolderScan) -> list[str]:
    """List the names of the class folders, sorted as their NFC, and count the files that lie beside them."""
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                names.append(entry.name)
            elif (extension := os.path.splitext(entry.name)[1].lower()) in scan.kind.extensions:  # noqa: PTH122
                scan.skipped[f"{extension} beside the class folders"] += 1
    names, bad = split_utf8(sorted(names, key=lambda name: (to_nfc(name), name)))
    if bad:
        scan.problems.append(describe_not_utf8(str(folder), bad, "folder"))
    return names


def _conclude(root: Path, scan: FolderScan, empty: Sequence[str], other: OtherKind | None) -> list[str]:
    """Warn of what was left out, and list the problems of the whole tree; it may be of the `other` kind if given."""
    what, problems = scan.kind.what, list(scan.problems)
    extensions = other.extensions if other else ()
    others = Counter({extension: count for extension, count in scan.skipped.items() if extension in extensions})
    if others and other:
        return [*problems, f"{root}: no {what}s in the class folders, but {list_counts(others)}: {other.advice}"]
    problems += empty
    if scan.nested:
        some = name_some([os.path.relpath(path, root) for path in scan.nested], _NAMED)
        problems.append(
            f"{root}: {len(scan.nested):,} folder{'s' * (len(scan.nested) > 1)} inside class folders ({some}): "
            f"data.recursive=true reads the {what}s in them, as of the class whose folder they are in"
        )
    if missing := scan.unreadable:
        packages = {scan.kind.missing[extension]: None for extension in missing}
        problems.append(
            f"{root}: {list_counts(missing)} cannot be read here: pip install {' '.join(packages)}, convert them, or "
            f"leave them out with data.leave_out=[{','.join(missing)}]"
        )
    if scan.respelt:
        warn(
            f"{root}: files whose names differ in their Unicode spelling alone: {name_some(scan.respelt)}", stacklevel=4
        )
    if scan.skipped:
        count = sum(scan.skipped.values())
        listed = list_counts(scan.skipped, most=20)
        warn(f"{root}: {count:,} file{'s' * (count > 1)} left out: {listed}", stacklevel=4)
    return problems
