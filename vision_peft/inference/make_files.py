"""Files that a user asked for: those that are there stay unless told otherwise, new ones are whole or not there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vision_peft.printable import name_some
from vision_peft.safe_files import check_regular, sync_folder


def check_absent(folder: Path, names: Sequence[str], overwrite: bool = False) -> None:
    """Accept names of files to write into `folder`.

    Raises:
        FileExistsError: some are there, and not to be replaced.
        ValueError: something else than a file has the name, or `folder` is none.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, wanted a folder for {name_some(names)}")
    for name in names:
        check_regular(folder / name, follow=False)
    if found := [folder / name for name in names if (folder / name).exists() and not overwrite]:
        raise FileExistsError(f"already there: {name_some(found)}; nothing was written, --overwrite replaces them")


@contextlib.contextmanager
def make_files(folder: Path, names: Sequence[str], overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to write the files `names` into; at the end they take their places in `folder`.

    Where the body raises, nothing in `folder` has changed, and folders that were made for it are gone.

    Raises:
        FileExistsError, ValueError: see `check_absent`.
    """
    check_absent(folder, names, overwrite)
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as temporary:
            yield Path(temporary)
            made = [Path(temporary) / name for name in names]
            (like := Path(temporary) / ".mode").touch()  # safetensors gives its files to their owner alone
            for path in made:
                path.chmod(like.stat().st_mode)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            check_absent(folder, names, overwrite)
            for path in made:
                path.replace(folder / path.name)
        sync_folder(folder)
    finally:
        for place in new:
            with contextlib.suppress(OSError):  # it holds what was made
                place.rmdir()
