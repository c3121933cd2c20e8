"""Names of files and classes in several spellings of Unicode, and names that are not UTF-8."""

import os
from collections.abc import Iterable, Sequence

from vision_peft.data.item_names import to_nfc
from vision_peft.printable import name_some

_NAMED = 3  # names that a message holds


def split_utf8(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide names as the file system gives them into those that are UTF-8 and the others, as quoted bytes."""
    if "".join(names).isascii():
        return list(names), []
    good, bad = [], []
    for name in names:
        try:
            name.encode()
            good.append(name)
        except UnicodeEncodeError:
            bad.append(repr(os.fsencode(name))[1:])
    return good, bad


def describe_not_utf8(where: str, bad: Sequence[str], what: str) -> str:
    """Describe the problem of names that are not UTF-8, of files or folders in `where`."""
    few = "s are" if len(bad) > 1 else " is"
    return (
        f"{where}: {len(bad)} {what} name{few} not UTF-8 ({name_some(bad, _NAMED)}): rename "
        f"{'them' if len(bad) > 1 else 'it'}, as convmv does for a whole tree"
    )


def list_respelt(names: Iterable[str]) -> list[str]:
    """List the names, in NFC, that several of `names` are spellings of."""
    seen: dict[str, str] = {}
    several: dict[str, None] = {}
    for name in names:
        if not name.isascii() and seen.setdefault(to_nfc(name), name) != name:
            several[to_nfc(name)] = None
    return [*several]
