"""Which arrow files below a folder hold the rows of which split, as `save_to_disk` of `datasets` leaves them.

A folder with a `state.json` names its files there. Beside them `datasets` keeps what `map` made of the rows and the
numbers that a shuffle put them in (`cache-*.arrow`), which are no further rows.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from vision_peft.data.annotations.split_names import ANY_SPLIT, SPLIT_OF
from vision_peft.data.annotations.walk_folders import Tree, is_hidden
from vision_peft.printable import name_some
from vision_peft.safe_files import check_regular, read_file
from vision_peft.strict_json import parse_json

STATE, SPLITS = "state.json", "dataset_dict.json"
_CACHE = re.compile(r"(?:cache|tmp)-?[0-9a-z_]+\.arrow")
_SPLIT = re.compile(rf"(?:.*-)?({ANY_SPLIT})(?:-\d+-of-\d+)?\.arrow", re.IGNORECASE)
_ORDERS = ("_indices_data_files", "_indices_files")  # of versions that saved an order of the rows beside them
_MOST = 2**24  # bytes of a state.json


def find_arrow_files(root: Path, tree: Tree) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the arrow files of each split below `root`, in their order, and the names of those that are left out.

    A split is named after its folder below `root`, or train where it is `root` itself.

    Raises:
        ValueError: files that a state.json or dataset_dict.json names are not there, two folders are the same split,
            or one folder without a state.json holds several.
        OSError: a file cannot be read.
    """
    files = sorted(name for name in (*tree.files, *tree.linked) if not is_hidden(name))
    arrows = [name for name in files if name.endswith(".arrow")]
    holding = {_folder(name) for name in arrows}
    states = [_folder(name) for name in files if Path(name).name == STATE and _folder(name) in holding]
    found: dict[str, list[str]] = {folder or "train": _read_state(root, folder, files) for folder in states}
    if len(found) < len(states):
        raise ValueError(f"{root} and {root / 'train'} both hold a saved dataset, of train: keep one")
    left_out = [name for name in arrows if not any(name in names for names in found.values())]
    for name in [name for name in left_out if not _is_in(name, states) and not _CACHE.fullmatch(Path(name).name)]:
        left_out.remove(name)
        found.setdefault(name.partition("/")[0] if "/" in name else "train", []).append(name)
    for split, names in found.items():
        words = {SPLIT_OF[match[1].lower()] for name in names if (match := _SPLIT.fullmatch(Path(name).name))}
        if len(words) > 1 and not states:
            raise ValueError(
                f"{root}: {split} would be files of several splits ({name_some(names, 4)}): put those of each split "
                "into a folder of its own, train, validation and test"
            )
    _check_splits(root, files, found)
    return {split: [root / name for name in names] for split, names in found.items()}, left_out


def open_arrow_files(datasets: Any, files: Sequence[Path]) -> Any:
    """Open the arrow files of a split, one behind the other, as a table of the module `datasets`.

    Raises:
        ValueError: one is no file, or holds the numbers of rows that `datasets` keeps of a shuffle.
        OSError: one cannot be read.
    """
    tables = []
    for path in files:
        check_regular(path)
        tables.append(datasets.Dataset.from_file(str(path)))
        if tables[-1].column_names == ["indices"]:
            raise ValueError(
                f"{path} holds no rows, but the order that datasets keeps of a shuffle or a selection: move it away"
            )
    return datasets.concatenate_datasets(tables)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _is_in(name: str, folders: Collection[str]) -> bool:
    return any(not folder or name.startswith(f"{folder}/") for folder in folders)


def _read_state(root: Path, folder: str, files: Collection[str]) -> list[str]:
    """Return the names of the files that the state.json of a folder names."""
    path = root / folder / STATE
    state = _parse(path)
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = [file.get("filename") if isinstance(file, dict) else None for file in listed or ()]
    if not isinstance(listed, list) or not all(isinstance(name, str) and name for name in names) or not names:
        raise ValueError(f"{path} names no files of a saved dataset in _data_files: save it again with save_to_disk")
    if any(state.get(order) for order in _ORDERS):
        raise ValueError(f"{path}: an older version of datasets saved an order of the rows too: save it again")
    below = [f"{folder}/{name}".removeprefix("/") for name in names]
    if missing := [name for name in below if name not in files]:
        raise ValueError(f"{path} names {name_some(missing, 3)}, not there: copy the whole folder")
    return below


def _check_splits(root: Path, files: Collection[str], found: Collection[str]) -> None:
    """Raise ValueError where a dataset_dict.json names a split that is not there, as in half a copy."""
    if SPLITS not in files:
        return
    path = root / SPLITS
    content = _parse(path)
    names = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(names, list):
        raise ValueError(f"{path} names no splits: save the dataset again with save_to_disk")
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} names the split {name_some(missing, 3)}, not there: copy the whole folder")


def _parse(path: Path) -> Any:
    try:
        return parse_json(read_file(path, _MOST))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
