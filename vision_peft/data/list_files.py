"""Reader of list files, `<path below the root> <label>` a line, that trusts nothing in them."""

import os
import re
from pathlib import Path

MAX_CLASSES = 100_000
_LINE = re.compile(r"(?P<path>.+?)\s+(?P<label>\S+)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def read_list(
    file: Path, root: Path, problems: list[str], num_classes: int | None = None, check_images: bool = True
) -> list[tuple[Path, int]]:
    """Images and labels of a list file; paths may hold spaces, blank lines are skipped.

    Every problem is appended to `problems` with file and line: a malformed line, a label that is no integer or not
    below `num_classes`, an image that is missing, is absolute or lies outside `root` (through `..` or a link), an
    empty file. Raises FileNotFoundError where there is no such list file.
    """
    lines = read_lines(file, problems)
    top = (num_classes or MAX_CLASSES) - 1
    folders = _Folders(root)
    items: list[tuple[Path, int]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = []
        parts = _LINE.fullmatch(line.strip())
        if parts is None:
            found.append(f"wanted '<path> <label>', got {_shown(line.strip())}")
        else:
            path, label = parts["path"], parts["label"]
            if not _INTEGER.fullmatch(label):
                found.append(f"label {_shown(label)} is not an integer")
            elif not 0 <= int(label) <= top:
                found.append(f"label {int(label)} is out of range: wanted 0 to {top}")
            if check_images and (trouble := folders.trouble(path)):
                found.append(trouble)
            if not found:
                items.append((root / path, int(label)))
        problems.extend(f"{file}:{number}: {text}" for text in found)
    return items


def read_lines(file: Path, problems: list[str]) -> list[str]:
    """Lines of a text file; an empty file or one that is not UTF-8 is appended to `problems` and has no lines."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        problems.append(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})")
        return []
    if not text:
        problems.append(f"{file}: the file is empty")
    return text.split("\n") if text else []


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:100]}...{text[-15:]}")


class _Folders:
    """Checks that paths lie below `root`, resolving a folder once: lists name thousands of files in few folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.real_root = os.path.realpath(root)
        self.inside: dict[str, bool] = {}

    def trouble(self, path: str) -> str | None:
        if Path(path).is_absolute():
            return f"path {_shown(path)} is absolute: wanted a path below {self.root}"
        full = os.path.join(self.root, path)  # noqa: PTH118  pathlib makes this loop three times slower
        try:
            if not self._is_inside(full):
                return f"path {_shown(path)} leads out of {self.root}"
            if not os.path.isfile(full):  # noqa: PTH113
                return f"image {_shown(path)} is missing"
        except (OSError, ValueError) as error:
            return f"path {_shown(path)} cannot be read: {type(error).__name__}"
        return None

    def _is_inside(self, full: str) -> bool:
        folder = os.path.dirname(full)  # noqa: PTH120
        if folder not in self.inside:
            self.inside[folder] = self._below(os.path.realpath(folder))
        return self.inside[folder] and (not os.path.islink(full) or self._below(os.path.realpath(full)))  # noqa: PTH114

    def _below(self, real: str) -> bool:
        return real == self.real_root or real.startswith(self.real_root + os.sep)
