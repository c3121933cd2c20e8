"""Files that could not be decoded while a run read its images: each is listed and reported once."""

from collections.abc import Callable, Iterable
from pathlib import Path

from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.printable import printable
from vision_peft.safe_files import open_to_append, read_file

MAX_LIST = 2**28  # bytes of a list of files
MAX_PATH = 4096  # letters of a path


class TooManyBadFiles(ValueError):
    """More training images than allowed cannot be decoded."""


class BadFiles:
    """The undecodable files of a run by path, with their cause.

    `file` gets a line `<path> TAB <cause>` for each; lines that are there already stay and are not repeated. `report`
    is called once a file with one line for the user.
    """

    def __init__(self, file: Path | None = None, report: Callable[[str], None] | None = None) -> None:
        self.causes: dict[str, str] = {}
        self._file, self._report = file, report

    def add(self, error: ImageDecodeError, fate: str) -> None:
        """Note a file; `fate` says in the report what becomes of it. A file that was noted before is left alone."""
        if error.path in self.causes:
            return
        self.causes[error.path] = error.cause
        if self._file is not None:
            line = f"{printable(error.path, MAX_PATH)}\t{error.cause}\n".encode()
            if not self._file.exists() or line not in read_file(self._file, MAX_LIST).splitlines(keepends=True):
                with open_to_append(self._file) as file:
                    file.write(line)
        if self._report is not None:
            self._report(f"warning: {error}: {fate}")

    def check(self, paths: Iterable[str], files: int, most: float) -> None:
        """Raise `TooManyBadFiles` if more than the share `most` of `files` are among the undecodable `paths`."""
        bad = list(paths)
        if is_share(len(bad), most, files):
            return
        shown = "".join(f"\n  {printable(path, MAX_PATH)}: {self.causes[path]}" for path in bad[:5])
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        listed = f", listed in {self._file}" if self._file is not None else ""
        raise TooManyBadFiles(
            f"{len(bad)} of {files} training images cannot be decoded so far, more than "
            f"max_bad_fraction={most:g} allows{listed}: fix them, or raise max_bad_fraction{shown}{more}"
        )


def is_share(number: int, most: float, files: int) -> bool:
    """Whether `number` is at most the share `most` of so many `files`."""
    return number <= int(most * files + 1e-9)
