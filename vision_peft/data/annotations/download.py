"""Find, check and download the official files of a dataset, as torchvision knows them."""

import contextlib
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from torchvision.datasets.utils import calculate_md5, check_integrity

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Official:
    """The files expected below the root, or in a folder of the family's name below it as AdaptFormer has it."""

    family: str
    files: Mapping[str, str | None]  # file or folder below that -> MD5, None where none is published
    archive: str  # URL that the files come from

    def find(self, root: Path) -> Path:
        """Find the folder that holds any of the files, else the one where they belong."""
        inner = root / self.family
        for folder in (root, inner):
            if any((folder / file).exists() for file in self.files):
                return folder
        return inner if inner.is_dir() else root

    def read(self, root: Path, read: Callable[[Path, bool], Read], download: bool) -> Read:
        """Return what `read(folder, download)` makes of the files.

        `read` raises RuntimeError, as torchvision's datasets do, where a file is missing or has another MD5.
        Of several processes one downloads. Raises FileNotFoundError for missing files, ValueError for files that
        torchvision does not know by their MD5 (those are never opened), ConnectionError where the download fails.
        """
        folder = self.find(root)
        try:
            return read(folder, False)
        except RuntimeError as error:  # torchvision raises the same for missing and damaged files
            if not download:
                self._explain(root, folder)
                raise ValueError(f"data={self.family}: {error}") from error
        with FileLock(folder / f".{self.family}.download.lock"):
            try:
                with _refuse_links():
                    return read(folder, True)
            except (OSError, RuntimeError, ValueError, tarfile.TarError) as error:
                raise ConnectionError(
                    f"data={self.family}: cannot download {self.archive} into {folder}: {error}; "
                    f"download it by hand and put {', '.join(self.files)} there"
                ) from error

    def _explain(self, root: Path, folder: Path) -> None:
        missing = [file for file in self.files if not (folder / file).exists()]
        if missing:
            place = f"below {root} or below {root / self.family}" if folder == root else f"below {folder}"
            above = any((root.parent / file).exists() for file in self.files)
            hint = f" (they are below {root.parent}: give data.root={root.parent})" if above else ""
            raise FileNotFoundError(
                f"data={self.family}: wanted {', '.join(self.files)} {place}; missing: {', '.join(missing)}{hint}. "
                f"Put them there from {self.archive}, or have them downloaded with data.download=true"
            )
        wrong = [
            f"{folder / file} has MD5 {calculate_md5(folder / file)}, wanted {md5}"
            for file, md5 in self.files.items()
            if md5 and not check_integrity(folder / file, md5)
        ]
        if wrong:
            raise ValueError(
                f"data={self.family}: not the official files, so they are not opened: {'; '.join(wrong)}. "
                f"Replace them from {self.archive}, or have them downloaded again with data.download=true"
            )


@contextlib.contextmanager
def _refuse_links() -> Iterator[None]:
    """Restrict what unpacks a tar archive inside to files and folders below its destination.

    torchvision names no filter, so that the one here is Python's default meanwhile (PEP 706).
    """
    before: Any = tarfile.TarFile.__dict__.get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(_check_member)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _check_member(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """Apply Python's data filter, and refuse links: older versions of the filter were led outside by them."""
    plain = tarfile.data_filter(member, path)
    if not (member.isfile() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return plain
