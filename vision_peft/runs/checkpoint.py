"""The state a run resumes from: `state/step_N/`, each either whole or not there.

A state is written as `step_N.tmp`, synced, and renamed; then `latest` names it. `state.pt` holds tensors, numbers, text
and containers of them, so that it loads with `weights_only=True`; a backbone in shards adds `shards/`, written by
torch's distributed checkpoint. `sha256` lists all files with their hash, as `sha256sum -c` reads it. No state of a
random generator is kept: every update seeds its own from (seed, step).
"""

import contextlib
import errno
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from vision_peft.distributed.exchange import travels
from vision_peft.distributed.processes import is_communication_error, on_rank0
from vision_peft.printable import warn
from vision_peft.runs.train_state import SHARDS
from vision_peft.safe_files import open_regular, open_to_append, replacing, sync_folder, write_file
from vision_peft.shards import is_shard_error
from vision_peft.torch_files import load_torch_file

KEPT = 2
SUMS = "sha256"
MAX_LINE = 2**24  # bytes of a line of metrics.jsonl


@travels
class SaveError(OSError):
    """What a run leaves could not be written; the state before is still there."""


@contextlib.contextmanager
def save_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` inside into `SaveError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _save_error(path, error) from error


def save_state(
    folder: Path, step: int, state: dict[str, Any], kept: int = KEPT, shards: Mapping[str, Tensor] | None = None
) -> Path:
    """Write `state` as `folder/step_<step>` and drop all but the newest `kept`; all processes of a run call it.

    Args:
        folder: the run's `state` folder, made if needed.
        step: number of updates done.
        state: tensors, numbers, text, None and dicts and lists of them; that of the main process is written.
        kept: how many of the newest states stay, this one among them.
        shards: tensors by name of which every process writes its part.

    Raises:
        SaveError: the disk is full or not writable; what was written is removed again and older states stay. Every
            process raises it.
    """
    final = folder / f"step_{step}"
    temporary = folder / f"step_{step}.tmp"
    try:
        on_rank0(lambda: _write_first(temporary, state))
        if shards is not None:
            import torch.distributed.checkpoint as dcp

            dcp.save(dict(shards), checkpoint_id=temporary / SHARDS)
        on_rank0(lambda: _publish(temporary, final))
    except BaseException as error:
        known = isinstance(error, OSError | RuntimeError) or is_shard_error(error)  # torch.save: a full disk is the 2nd
        if not known or is_communication_error(error):  # nothing more can be agreed on
            raise
        explained = _save_error(final, error)
        on_rank0(lambda: _remove(temporary))
        raise explained from error
    on_rank0(lambda: _purge(folder, kept))
    return final


def newest_state(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """Load the newest complete state below `folder` to the CPU, with its own folder; None if there is none.

    Damaged ones are skipped with a warning and what an interrupted save left behind is removed. All processes of a run
    call it and get the same.
    """
    name = on_rank0(lambda: (path := find_newest_state(folder)) and path.name)
    return None if name is None else (read_state(folder / name), folder / name)


def find_newest_state(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    for left in folder.glob("*.tmp"):
        _remove(left)
    for path in _states(folder):
        try:
            for line in (path / SUMS).read_text(encoding="utf-8").splitlines():
                digest, _, name = line.partition("  ")
                if not (path / name).resolve().is_relative_to(path.resolve()):
                    raise ValueError(f"{SUMS} lists {name!r}, which is outside the folder")
                if digest != _sha256(path / name):
                    raise ValueError(f"the checksum of {name} does not match")
            read_state(path)
            if (path / SHARDS).is_dir():
                from vision_peft.runs.safe_dcp_reader import ShardReader

                ShardReader(path / SHARDS).read_metadata()
            return path
        except Exception as error:  # whatever is wrong with it, an older one may do
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warn(f"{path} is damaged ({reason}): trying the previous one", stacklevel=2)
    return None


def read_state(path: Path) -> dict[str, Any]:
    state = load_torch_file(path / "state.pt")
    if not isinstance(state, dict):
        raise ValueError(f"state.pt holds a {type(state).__name__}")
    return state


def _write_first(temporary: Path, state: dict[str, Any]) -> None:
    _remove(temporary)
    temporary.mkdir(parents=True)
    with replacing(temporary / "state.pt") as file:
        torch.save(state, file)


def _publish(temporary: Path, final: Path) -> None:
    """Sum up what was written, then give it its name."""
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(temporary).as_posix()}" for path in files]
    write_file(temporary / SUMS, "\n".join(lines) + "\n")
    for inner in temporary.rglob("*"):
        if inner.is_dir():
            sync_folder(inner)
    sync_folder(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    write_file(final.with_name("latest"), final.name)


def _purge(folder: Path, kept: int) -> None:
    for old in _states(folder)[kept:]:
        shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    """Delete a file or a folder that may not be there, and a pointer half written beside it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    path.with_name("latest.tmp").unlink(missing_ok=True)


def truncate_lines(path: Path, lines: int) -> None:
    """Keep the first `lines` of a text file: what metrics.jsonl held when the resumed state was saved."""
    if not path.exists():
        return
    end = 0
    with open_regular(path) as file:
        for _ in range(lines):
            line = file.readline(MAX_LINE)
            if not line.endswith(b"\n"):
                break
            end += len(line)
    with open_to_append(path) as file:
        file.truncate(end)


def _states(folder: Path) -> list[Path]:
    """All state folders, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(r"step_(\d+)", path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save_error(path: Path, error: BaseException) -> SaveError:
    words = f"{_free_bytes(path)} bytes were free; older states are kept, the same command resumes"
    return SaveError(f"could not write {path}: {_reason(error)}; {words}")


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:  # torch raises its own error over that of the file
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return "the disk is full"
        cause = cause.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
