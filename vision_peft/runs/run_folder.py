"""The run folder: opened without harming what lies there, written to while training goes on."""

from collections.abc import Collection
from pathlib import Path

from omegaconf import OmegaConf

from vision_peft.config.parse import Config, to_dict
from vision_peft.config.run_id import MOUNT_POINTS
from vision_peft.distributed.stopping import starts_over
from vision_peft.results.figures import is_tested
from vision_peft.results.row import DIVERGED, FINISHED, RESULT, STATUS, Row, read_row
from vision_peft.runs.compare_data import Pinned, pin_data
from vision_peft.runs.data_record import DATA, DataRecord
from vision_peft.runs.find_run import check_same, find_other_root
from vision_peft.runs.folder_lock import FolderLock
from vision_peft.runs.run_config import CONFIG, read_config
from vision_peft.runs.run_files import LOCK, check_run_folder, empty_run_folder, holds_only
from vision_peft.safe_files import write_file


def find_finished_row(config: Config, folder: Path) -> Row | None:
    """Find the row of a run that needs no more work; None if there is something left to do.

    Raises:
        ValueError: the folder holds another config's run (the differing keys are shown) or what is no file of a run;
            nothing is touched.
    """
    if not (folder.exists() or folder.is_symlink()):
        return None
    check_run_folder(folder)
    if (folder / CONFIG).exists():
        if starts_over(config.overwrite):
            return None
        check_same(config, folder)
    elif not holds_only(folder, (LOCK, f"{CONFIG}.tmp")):
        raise ValueError(f"{folder} exists but has no {CONFIG}, so it is not a run: move it away")
    if not (folder / RESULT).exists():
        return None
    row = read_row(folder / RESULT)
    read_enough = is_tested(row) or not config.read_test
    return row if row.status == FINISHED and read_enough else None


def find_diverged_row(folder: Path) -> Row | None:
    """Find the row of a run that ended because it diverged; None of any other."""
    rows = (read_row(folder / name) for name in (STATUS, RESULT) if (folder / name).is_file())
    return next((row for row in rows if row.status == DIVERGED), None)


def pin_folder(config: Config, folder: Path, record: DataRecord, resumes: bool, used: Collection[str]) -> Pinned:
    """Pin the data of a run, see `pin_data`, and have its config.yaml say where that data is now.

    A run that died before its first state may be started again with another `data.root`.
    """
    other_root = find_other_root(config, folder) if resumes else None
    pinned = pin_data(folder / DATA, record, resumes, used, other_root)
    there, here = read_config(folder), to_dict(config)["data"]
    if any(there.get("data", {}).get(key) != here.get(key) for key in MOUNT_POINTS):
        write_file(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create({**there, "data": here})))
    return pinned


def open_folder(config: Config, folder: Path) -> FolderLock:
    """Make the run folder, emptied first where the run starts over, and write the resolved config into it.

    Only what runs write is deleted, and only where there is a run.

    Returns:
        The lock that keeps other processes out of the folder until it is released.

    Raises:
        ValueError: another process trains in the folder, or something in it is no file; nothing was changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_run_folder(folder)
    try:
        lock = FolderLock(folder / LOCK)
    except BlockingIOError:
        raise ValueError(f"{folder} is being trained by another process: wait for it or stop it") from None
    if starts_over(config.overwrite) and (folder / CONFIG).exists():
        empty_run_folder(folder)
    if not (folder / CONFIG).exists():
        write_file(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
    return lock
