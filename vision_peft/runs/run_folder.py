"""The run folder: opened without harming what lies there, written to while training goes on."""

import errno
import shutil
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from vision_peft.config.parse import Config, to_dict
from vision_peft.results.row import Row, read_row
from vision_peft.runs.find_run import check_same
from vision_peft.runs.run_config import CONFIG

RESULT, LOCK = "result.json", ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EIO)  # of a file system


def find_finished_row(config: Config, folder: Path) -> Row | None:
    """Find the row of a run that needs no more work; None if there is something left to do.

    Raises:
        ValueError: the folder holds another config's run; the differing keys are shown and nothing is touched.
    """
    if config.overwrite or not folder.exists():
        return None
    if (folder / CONFIG).exists():
        check_same(config, folder)
    elif any(path.suffix != ".tmp" and path.name != LOCK for path in folder.iterdir()):
        raise ValueError(f"{folder} is there but has no {CONFIG}: move it away, or start over with overwrite=true")
    if not (folder / RESULT).exists():
        return None
    row = read_row(folder / RESULT)
    return row if row.top1 is not None or not config.read_test else None


def open_folder(config: Config, folder: Path) -> FileLock:
    """Make the run folder, emptied first with `overwrite=true`, and write the resolved config into it.

    Returns:
        The lock that keeps other processes out of the folder until it is released.

    Raises:
        ValueError: another process trains in the folder; nothing was changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    if config.overwrite:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    if not (folder / CONFIG).exists():
        temporary = folder / f"{CONFIG}.tmp"
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))), encoding="utf-8")
        temporary.replace(folder / CONFIG)
    return lock


def _lock(folder: Path) -> FileLock:
    """Hold the run folder for this process, until the lock is released; ValueError where another process holds it."""
    path = folder / LOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} must be a file, it is a link or something else: remove it")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{folder} is being trained by another process: wait for it or stop it") from None
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
    return lock
