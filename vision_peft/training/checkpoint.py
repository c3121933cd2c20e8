"""The state a run resumes from: `state/step_N/`, each either whole or not there.

A state is written as `step_N.tmp`, synced, and renamed; then `latest` names it. `state.pt` holds tensors, numbers, text
and containers of them, so that it loads with `weights_only=True`; `sha256` beside it tells a damaged one. No state of a
random generator is kept: every update seeds its own from (seed, step).
"""

import errno
import hashlib
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

KEPT = 2


class SaveError(OSError):
    """A state could not be written; the one before is still there."""


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` as `folder/step_<step>` and drop all but the newest two.

    Args:
        folder: the run's `state` folder, made if needed.
        step: number of updates done.
        state: tensors, numbers, text, None and dicts and lists of them.

    Raises:
        SaveError: the disk is full or not writable; what was written is removed again and older states stay.
    """
    final = folder / f"step_{step}"
    temporary = folder / f"step_{step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with (temporary / "state.pt").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _write_synced(temporary / "sha256", _sha256(temporary / "state.pt"))
        _sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _write_synced(folder / "latest.tmp", final.name)
        (folder / "latest.tmp").replace(folder / "latest")
        _sync(folder)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        free = _free_bytes(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        (folder / "latest.tmp").unlink(missing_ok=True)
        words = f"{free} bytes were free; older states are kept, the same command resumes"
        raise SaveError(f"could not write {final}: {_reason(error)}; {words}") from error
    for old in _states(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_state(folder: Path) -> dict[str, Any] | None:
    """The newest state below `folder` that is whole, on the CPU; None if there is none.

    Damaged ones are skipped with a warning and what an interrupted save left behind is removed.
    """
    if not folder.is_dir():
        return None
    for left in folder.glob("*.tmp"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    for path in _states(folder):
        try:
            if (path / "sha256").read_text().strip() != _sha256(path / "state.pt"):
                raise ValueError("its checksum does not match")
            return torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # whatever is wrong with it, an older one may do
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(f"{path} is damaged ({reason}): trying the one before", stacklevel=2)
    return None


def truncate_lines(path: Path, lines: int) -> None:
    """Keep the first `lines` of a text file: what metrics.jsonl held when the resumed state was saved."""
    if not path.exists():
        return
    kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
    temporary = path.with_name(f"{path.name}.tmp")
    _write_synced(temporary, "".join(kept))
    temporary.replace(path)


def _states(folder: Path) -> list[Path]:
    """All state folders, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(r"step_(\d+)", path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:  # torch raises its own error over that of the file
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return "the disk is full"
        cause = cause.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
