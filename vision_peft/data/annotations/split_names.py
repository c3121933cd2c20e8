"""What folders and lists of splits are called, and names that only look as if they were called so."""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from vision_peft.printable import name_some, printable

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
ANY_SPLIT = "|".join(sorted(SPLIT_OF, key=len, reverse=True))  # as a pattern, the longest first
SPLIT_WORDS = ("split", "set", "subset", "partition", "phase", "usage", "data_split", "dataset_split")  # of columns
_LIKE = {
    "train": (*SPLIT_NAMES["train"], "trn", "trainval"),
    "val": (*SPLIT_NAMES["val"], "development"),
    "test": (*SPLIT_NAMES["test"], "tst", "eval", "evaluation", "holdout"),
}
_BEHIND = r"([ _.-]?(set|data|split|images?|imgs?|[0-9]{1,4}))?"  # what may follow: train2017, test_set


def choose_splits(names: Iterable[str], where: Path) -> dict[str, str]:
    """Return the names that mean a split, by split in the order of `SPLITS`; capitals make no difference.

    Raises:
        ValueError: several mean the same split.
    """
    found: dict[str, str] = {}
    there = sorted(names)
    for split, meant in SPLIT_NAMES.items():
        present = [name for name in there if name.lower() in meant]
        if len(present) > 1:
            raise ValueError(f"{where} holds {' and '.join(present)}, all of which mean {split}: keep one")
        if present:
            found[split] = present[0]
    return found


def check_unread(where: Path, unread: Sequence[str], found: Collection[str]) -> None:
    """Raise ValueError where a name that is not read looks like a split which was not found.

    Args:
        where: the folder that they are in.
        unread: names of folders, or of lists without their endings.
        found: the splits that are read; where there are none, names are taken for splits only if one is like train.
    """
    like = {name: split for name in unread if (split := guess_split(name)) and split not in found}
    if not like or not (found or "train" in like.values()):
        return
    wanted, listed = " and ".join(dict.fromkeys(like.values())), name_some(like)
    words = (
        f"{listed}, which look like splits and would not be read as such: call them {wanted}, or move them away"
        if len(like) > 1
        else f"{listed}, which looks like a split and would not be read as one: call it {wanted}, or move it away"
    )
    raise ValueError(f"{where} holds {words}")


def describe_unread(where: Path, read: Iterable[str], unread: Sequence[str]) -> str:
    """Say in a line what is read in a folder and what is not."""
    return printable(f"{where}: read {', '.join(read)}; ignored {name_some(unread)}", 1000)


def guess_split(name: str) -> str | None:
    """Return the split that a name seems to be meant for; None: it is like none."""
    for split, words in _LIKE.items():
        if re.fullmatch(f"({'|'.join(words)}){_BEHIND}", name, re.IGNORECASE):
            return split
    return None
