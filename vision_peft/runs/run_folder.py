"""The run folder: opened without harming what lies there, written to while training goes on."""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from vision_peft.config.parse import Config, to_dict
from vision_peft.results.row import Row, read_row
from vision_peft.runs.find_run import check_same
from vision_peft.runs.run_config import CONFIG

RESULT, LOCK = "result.json", ".lock"


def find_finished_row(config: Config, folder: Path) -> Row | None:
    """Find the row of a run that needs no more work; None if there is something left to do.

    Raises:
        ValueError: another config's run lies in the folder; the differing keys are shown and nothing is touched.
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
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{folder} is being trained by another process: wait for it or stop it") from None
    except (OSError, NotImplementedError):  # some network file systems have no locks
        pass
    return lock
