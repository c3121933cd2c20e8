"""Names of files that stay when the data is mounted elsewhere: paths below the root, in one spelling."""

import os
import unicodedata


def name_below(path: str, base: str | None) -> str:
    """Return `path` relative to the folder `base`, with forward slashes and in Unicode's NFC.

    A path that is not below `base`, or any where there is none, stays whole.
    """
    if "/." in path or "//" in path:  # normalising every path would take longer than all the rest
        path = os.path.normpath(path)
    if base is not None and "/." in base:
        base = os.path.normpath(base)
    if base is not None:
        path = path.removeprefix(base if base.endswith(os.sep) else base + os.sep)
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    return to_nfc(path)


def to_nfc(name: str) -> str:
    """Return a name in Unicode's NFC, in which "é" is one letter however it was typed."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
