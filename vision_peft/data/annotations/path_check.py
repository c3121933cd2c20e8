"""Check that the files which a list names exist below a folder, whatever the list says."""

import os
from pathlib import Path

import numpy as np

from vision_peft.data.flat_arrays import TextArray
from vision_peft.data.item_names import name_below, to_nfc
from vision_peft.data.problems import quote

_FEW = 8  # files of a folder that are looked at one by one; of more of them the folder is listed


class PathCheck:
    """Checks that images exist below `root`, resolving a folder once: lists name thousands of files in few folders.

    With `confined=False` they may be anywhere; `hint` is added where a path leads out of `root`.
    """

    what = "image"  # for messages

    def __init__(self, root: Path, confined: bool = True, hint: str = "") -> None:
        self.root = root
        self.confined = confined
        self.hint = hint
        self.real_root = os.path.realpath(root)
        self.inside: dict[str, bool] = {}
        self._unlike_ascii: dict[str, list[str]] = {}

    def find_problem(self, path: str) -> str | None:
        """Describe what is wrong with `path`; None if it is an image file where it may be."""
        if self.confined and os.path.isabs(path):  # noqa: PTH117
            return f"path {quote(path)} is absolute: wanted a path below {self.root}{self.hint}"
        full = os.path.join(self.root, path)  # noqa: PTH118  pathlib makes this loop three times slower
        try:
            if self.confined and not self.is_inside(full):
                return f"path {quote(path)} leads out of {self.root}{self.hint}"
            return self.find_absence(full, path)
        except (OSError, ValueError) as error:
            return f"path {quote(path)} cannot be read: {type(error).__name__}"

    def find_problems(self, paths: TextArray) -> dict[int, str]:
        """Describe what is wrong with some of `paths`, by their places: a folder with many of them is listed once."""
        number_of: dict[bytes, int] = {}  # of a folder
        encoded = paths.iterate_encoded()
        numbers = np.fromiter(
            (number_of.setdefault(path[: path.rfind(b"/") + 1], len(number_of)) for path in encoded), np.int64
        )
        order, ends = np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))
        found, start = {}, 0
        for folder, end in zip(number_of, ends.tolist(), strict=True):
            items, start = order[start:end], end
            sound, length = self.list_sound(folder) if len(items) > _FEW else frozenset[bytes](), len(folder)
            for item, path in zip(items.tolist(), paths.take(items).iterate_encoded(), strict=True):
                if path[length:] not in sound and (problem := self.find_problem(paths[item])):
                    found[item] = problem
        return dict(sorted(found.items()))

    def list_sound(self, folder: bytes) -> frozenset[bytes]:
        """List the names in a folder, as a list writes it, in which nothing can be wrong; of others nothing is said."""
        full = os.path.join(os.fsencode(self.root), folder)  # noqa: PTH118
        try:
            if self.confined and (os.path.isabs(folder) or not self.is_inside(os.fsdecode(full))):  # noqa: PTH117
                return frozenset()
            with os.scandir(full) as entries:
                return frozenset(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        except (OSError, ValueError):
            return frozenset()

    def find_spelling(self, path: str) -> str | None:
        """Return the one path there that differs from `path` in its Unicode spelling alone; None: there is none."""
        found = ""
        for name in path.split("/"):
            folder = os.path.join(self.root, found)  # noqa: PTH118
            if not os.path.lexists(os.path.join(folder, name)):  # noqa: PTH118
                same = [other for other in self._list_unlike_ascii(folder) if to_nfc(other) == to_nfc(name)]
                if len(same) != 1:
                    return None
                name = same[0]
            found = f"{found}{name}/"
        return found[:-1]

    def _list_unlike_ascii(self, folder: str) -> list[str]:
        if folder not in self._unlike_ascii:
            try:
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries if not entry.name.isascii()]
            except OSError:
                names = []
            self._unlike_ascii[folder] = names
        return self._unlike_ascii[folder]

    def find_absence(self, full: str, path: str) -> str | None:
        """Describe a path that may be where it is but has no file, by its full path and as it is listed."""
        if os.path.isfile(full):  # noqa: PTH113
            return None
        return f"{self.what} {quote(path)} is missing{self._explain_absence(full, path)}"

    def _explain_absence(self, full: str, path: str) -> str:
        """Say what to write where a path is one of Windows, or else which folder is not there."""
        if "\\" in path and os.sep == "/":
            return f": write / in place of \\ in paths, which are looked for in {self.root}"
        folder = os.path.dirname(path)  # noqa: PTH120
        if not folder or os.path.isabs(path) or os.path.isdir(os.path.dirname(full)):  # noqa: PTH112, PTH117, PTH120
            return ""
        return f": there is no folder {quote(folder)} in {self.root}"

    def identity(self, full: str) -> str:
        """Return what two spellings of one item have in common."""
        return os.path.normpath(full)

    def list_names(self, paths: TextArray, full: TextArray) -> TextArray:
        """List what two spellings of each item have in common, below the root where they are there.

        Args:
            paths: as they are listed.
            full: the same with the root.
        """
        if full.prefix and paths.data.isascii() and not any(sign in paths.data for sign in (b"/.", b"./", b"//")):
            return full.without_prefix()  # nothing is spelt in two ways
        return TextArray.of(name_below(self.identity(path), str(self.root)) for path in full)

    def is_inside(self, full: str) -> bool:
        """Whether a path stays below the root, links followed."""
        folder = os.path.dirname(full)  # noqa: PTH120
        if folder not in self.inside:
            self.inside[folder] = self.is_below(os.path.realpath(folder))
        return self.inside[folder] and (not os.path.islink(full) or self.is_below(os.path.realpath(full)))  # noqa: PTH114

    def is_below(self, real: str) -> bool:
        """Whether a resolved path is the resolved root or below it."""
        return real == self.real_root or real.startswith(self.real_root + os.sep)
