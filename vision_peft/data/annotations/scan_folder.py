"""List the files of class folders, and count by kind what is left out."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from vision_peft.data.annotations.file_names import describe_not_utf8, list_respelt, split_utf8

DEEPEST = 64  # folders inside one another below a class folder
_READ = ""  # of the kinds of extensions


class FileKind(NamedTuple):
    """The files that a family of datasets reads.

    Args:
        what: one of them, in messages.
        extensions: of their names, in lower case.
        missing: extensions of such files that cannot be read here, and the package that would read them.
        starts: whether a file without an extension is one, by its first bytes.
    """

    what: str
    extensions: frozenset[str]
    missing: Mapping[str, str]
    starts: Callable[[str], bool]


class FolderScan:
    """Lists the files of one class folder after another and remembers what it left out.

    Args:
        recursive: list what is in folders inside class folders too.
        leave_out: extensions, in lower case, that are left out on purpose.

    Attributes:
        skipped: files that were left out, by extension.
        unreadable: files of `kind.missing`, by extension.
        nested: folders inside class folders that were not looked into.
        respelt: names of files that occur in two spellings of Unicode.
        problems: everything else that is wrong.
    """

    def __init__(self, kind: FileKind, recursive: bool, leave_out: Collection[str]) -> None:
        self.kind, self.recursive, self._leave_out = kind, recursive, frozenset(leave_out)
        self.skipped: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()
        self.nested: list[str] = []
        self.respelt: list[str] = []
        self.problems: list[str] = []
        self._kinds: dict[str, str] = {}  # of extensions as they are written

    def list_files(self, folder: str) -> tuple[list[str], Counter[str]]:
        """Return the sorted paths of the files below a class folder, and what was left out in it."""
        names: list[str] = []
        skipped: Counter[str] = Counter()
        self._scan(folder, "", names, skipped, ())
        names.sort()
        names, bad = split_utf8(names)
        if bad:
            self.problems.append(describe_not_utf8(folder, bad, "file"))
        self.respelt += list_respelt(names)
        self.skipped += skipped
        for extension in self.kind.missing.keys() & skipped.keys():
            if extension not in self._leave_out:
                self.unreadable[extension] += self.skipped.pop(extension)
        return names, skipped

    def _scan(self, folder: str, below: str, names: list[str], skipped: Counter[str], above: tuple[str, ...]) -> None:
        kinds = self._kinds
        with os.scandir(folder) as entries:
            for entry in entries:  # a million times, so that what most files are comes first
                name = entry.name
                kind = kinds.get(name[name.rfind(".") :])
                if kind is None:
                    kind = self._find_kind(name)
                if name[0] == ".":
                    skipped["hidden"] += 1
                elif kind == _READ and entry.is_file():
                    names.append(below + name)
                elif entry.is_dir():
                    self._enter(entry, below, names, skipped, above or (os.path.realpath(folder),))
                elif kind == _READ:
                    self.problems.append(f"{entry.path}: a broken link, or not a regular file")
                elif kind == "no extension" and entry.is_file() and self.kind.starts(entry.path):
                    names.append(below + name)
                else:
                    skipped[kind] += 1

    def _enter(
        self, entry: os.DirEntry[str], below: str, names: list[str], skipped: Counter[str], above: tuple[str, ...]
    ) -> None:
        """List a folder inside a class folder; `above` are the folders on the way to it, links resolved."""
        if not self.recursive:
            self.nested.append(entry.path)
            return
        real = os.path.realpath(entry.path)
        if real in above:
            self.problems.append(f"{entry.path}: a link to a folder that it is in")
        elif len(above) > DEEPEST:
            self.problems.append(f"{entry.path}: more than {DEEPEST} folders inside one another")
        else:
            self._scan(entry.path, f"{below}{entry.name}/", names, skipped, (*above, real))

    def _find_kind(self, name: str) -> str:
        """Say how a file of this name is counted, "" where it is read."""
        extension = os.path.splitext(name)[1]  # noqa: PTH122
        if not extension or extension == ".":
            return "no extension"
        lower = extension.lower()
        kind = _READ if lower in self.kind.extensions and lower not in self._leave_out else lower
        return self._kinds.setdefault(extension, kind)


def list_counts(counts: Counter[str], words: str = "{}", most: int = 5) -> str:
    """Write the commonest kinds with their numbers into `words`; "" where there are none."""
    listed = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(most))
    more = f" and {len(counts) - most} more kinds" if len(counts) > most else ""
    return words.format(listed + more) if counts else ""
