"""Compare the data of now with what a run was made of, and decide what that means for the run."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision_peft.data.item_names import to_nfc
from vision_peft.printable import LONGEST_LINE, name_some, printable
from vision_peft.runs.data_record import DATA, DataRecord, Item
from vision_peft.runs.saved_data import SavedData, read_saved_data

TRAINED = ("train", "trainval")  # splits that a model learns from
_NAMED = 3  # files that a message names
_NOT_RECORDED = f"this run is of an earlier version, which left no {DATA}: it is not known whether its data has changed"
_DRAWN_OTHERWISE = (
    f"has no {DATA}, as those of earlier versions, which drew other splits: val and test of now may hold what it was "
    "trained on"
)


class Pinned(NamedTuple):
    """The data that a run goes on with: its digest, and a line about changes for the log, "" where there are none."""

    digest: str
    words: str


def pin_data(
    path: Path, record: DataRecord, resumes: bool, used: Collection[str], other_root: str | None = None
) -> Pinned:
    """Write the data.json of a run, or compare the one there with `record`.

    Args:
        resumes: whether the run goes on from a state, which was made of the data that data.json lists.
        used: splits that the state has learnt from or was chosen by; a change in others is said, and training goes on.
        other_root: see `find_other_root`; then nothing may differ.

    Raises:
        ValueError: the data that was used is not what is there now; nothing was changed.
    """
    saved = read_saved_data(path) if resumes else None
    then = record if saved is None else record.measured_as(saved.version)
    changes = {} if saved is None else describe_changes(saved, then)
    if resumes and other_root and (saved is None or changes):
        raise _on_other_data(path.parent, other_root)
    if resumes and saved is None and record.config.draws_by_name():
        raise ValueError(
            f"{path.parent} {_DRAWN_OTHERWISE}. Nothing was changed: take another output_dir, or start over with "
            "overwrite=true"
        )
    words = f"\nwarning: {_NOT_RECORDED}" if resumes and saved is None else ""
    if saved is not None and changes:
        unread = [split for split in changes if split in record.splits and split not in used]
        if len(unread) < len(changes) or any(list_trained_on(saved, then, split) for split in unread):
            raise ValueError(
                f"{path.parent}: the data is not what this run was made of: {_join(changes)}. Nothing was changed: "
                "restore the data, take another output_dir, or start over with overwrite=true"
            )
        words = f"\nwarning: the data has changed where this run has not read it yet: {_join(changes)}"
    if saved is None or {split: entry.digest for split, entry in saved.splits.items()} != record.digests:
        record.write(path)
    return Pinned(record.digest, words)


def describe_since(folder: Path, load: Callable[[], DataRecord], other_root: str | None = None) -> str:
    """Say in a line how the data of a finished run has changed since, or why that cannot be told; "" if it has not.

    Raises:
        ValueError: there is an `other_root` (see `find_other_root`), and the data is not the same, or may not be.
    """
    saved, changes = None, {}
    try:
        saved = read_saved_data(folder / DATA)
        changes = {} if saved is None else describe_changes(saved, load().measured_as(saved.version))
        words = "" if saved else _NOT_RECORDED
    except (ValueError, OSError) as error:
        words = f"it is not known whether its data has changed: {str(error).splitlines()[0]}"
    if other_root and (words or changes):
        raise _on_other_data(folder, other_root)
    if words:
        return f"\nwarning: {words}"
    if not changes:
        return ""
    return (
        f"\nwarning: the data has changed since: {_join(changes)}. The figures are those of the data before; "
        "overwrite=true or another output_dir trains on the data of now"
    )


def describe_evaluated(folder: Path, record: DataRecord, split: str, own: bool) -> str:
    """Say how the split that is evaluated differs from what the run in `folder` reads; "" where it does not.

    Args:
        own: whether the data is the run's own.

    Raises:
        ValueError: test holds items that the run was trained on.
    """
    saved = read_saved_data(folder / DATA)
    if own and saved is None and split not in TRAINED and record.config.draws_by_name():
        raise ValueError(f"{folder} {_DRAWN_OTHERWISE}: train again, or give other data")
    if saved is None:
        return _NOT_RECORDED if own else ""
    record, words = record.measured_as(saved.version), []
    if split not in TRAINED and (trained := list_trained_on(saved, record, split)):
        number = f"{len(trained):,} of {len(record.sizes[split]):,} items of {split}"
        text = f"{number} were trained on in {folder} ({_some(trained)})"
        if split == "test":
            raise ValueError(f"{text}: an accuracy on them would say nothing; leave them out of test")
        words.append(text)
    if own and (changes := describe_changes(saved, record)):
        words.append(f"the data is not what {folder} was made of: {_join(changes)}")
    return "; ".join(words)


def describe_changes(saved: SavedData, record: DataRecord) -> dict[str, str]:
    """Describe how the splits of `record` that the run read as well, and the classes, differ from what they were."""
    changes = {}
    if not saved.has_classes(record.classes):
        changes["classes"] = f"{len(record.classes)} ({_some(record.classes)}), "
        changes["classes"] += f"before {len(saved.classes)} ({_some(saved.classes)})"
    shared = [split for split in record.splits if split in saved.splits]
    differing = [split for split in shared if saved.splits[split].digest != record.digests[split]]
    if {"train", "val"} & {*differing}:
        differing = [split for split in differing if split != "trainval"]  # the same said again
    return changes | {split: _describe_split(saved, record, split) for split in differing}


def list_trained_on(saved: SavedData, record: DataRecord, split: str) -> list[str]:
    """List the items of `split` that the run learns from, by name and size."""
    hashes = {hash((item.name, item.size)) for item in record.items(split)}
    parts = [part for part in TRAINED if part in saved.splits]
    trained = (item for part in parts for item in saved.items(part))
    found = {item.name: item.size for item in trained if hash((item.name, item.size)) in hashes}
    here = {(item.name, item.size) for item in record.items(split) if item.name in found} if found else set()
    return [name for name, size in found.items() if (name, size) in here]


def _on_other_data(folder: Path, root: str) -> ValueError:
    return ValueError(
        f"{folder} holds the run on data.root={root}, which is still there and has other data under the same name: "
        "nothing was changed; take another output_dir, or start over with overwrite=true"
    )


def _describe_split(saved: SavedData, record: DataRecord, split: str) -> str:
    before, now = _select_differing(saved, record, split)
    removed: list[str] = []
    sizes: list[str] = []
    classes: list[str] = []
    for item in before:
        there = now.pop(item.name, None)
        if there is None:
            removed.append(item.name)
            continue
        if there.size != item.size:
            sizes.append(f"{item.name}: {there.size} bytes, {item.size} before")
        if (name := _class(record.classes, there)) != (before := _class(saved.classes, item)):
            classes.append(f"{item.name}: {name}, {before} before")
    found = {"removed": removed, "added": [*now], "of another size": sizes, "of another class": classes}
    words = [f"{len(texts):,} {what} ({_some(texts)})" for what, texts in found.items() if texts]
    for origin, number in _find_origins(saved, split, now):
        words.append(f"{number:,} of the {len(record.sizes[split]):,} now were in {origin}")
    return ", ".join(words) or "the same items in another order"


def _select_differing(saved: SavedData, record: DataRecord, split: str) -> tuple[list[Item], dict[str, Item]]:
    """Return the items of then and, by name, those of now that are not the same on the other side.

    Of a million items nothing is kept but a hash of each.
    """

    def hash_all(items: Iterator[Item], classes: Sequence[str]) -> np.ndarray:
        hashes = (hash((item.name, _class(classes, item), item.size)) for item in items)
        return np.fromiter(hashes, np.int64)

    then, there = hash_all(saved.items(split), saved.classes), hash_all(record.items(split), record.classes)
    before = list(compress(saved.items(split), (~np.isin(then, there)).tolist()))
    now = {item.name: item for item in compress(record.items(split), (~np.isin(there, then)).tolist())}
    return before, now


def _find_origins(saved: SavedData, split: str, added: Collection[str]) -> Iterator[tuple[str, int]]:
    """Count the items that have come to `split` from other splits."""
    for other, entry in saved.splits.items() if added else ():
        if other != split and not entry.of:
            number = sum(item.name in added for item in saved.items(other))
            if number:
                yield other, number


def _class(classes: Sequence[str], item: Item) -> str:
    return to_nfc(classes[item.label]) if item.label in range(len(classes)) else str(item.label)


def _join(changes: dict[str, str]) -> str:
    return "; ".join(f"{what}: {printable(text, LONGEST_LINE)}" for what, text in changes.items())


def _some(texts: Sequence[str]) -> str:
    """Name the first of several texts."""
    return name_some(texts, _NAMED)
