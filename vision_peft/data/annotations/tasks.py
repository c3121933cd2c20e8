"""Choose one task of a benchmark among the task folders below `data.root`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from vision_peft.data.config import DataConfig
from vision_peft.data.problems import UnknownTask, unknown

Found = TypeVar("Found")


def choose_task(
    family: type[DataConfig], root: Path, task: str | None, found: Mapping[str, Found], one_name: Callable[[str], str]
) -> Found:
    """Select what was `found` below `root` for `task`, by the name of its folder.

    Args:
        family: the benchmark, for messages and for the groups of its suite.
        task: as the family keeps it, under one name.
        found: something about every task folder, by the name of the folder.
        one_name: the one name of a task for any of its spellings.

    Raises:
        ValueError: no task is given, it stands for several, or several folders are of it.
        UnknownTask: no folder is of it; the message names those found.
    """
    if not task:
        raise ValueError(f"data={family.name} needs data.task; {root} holds: {', '.join(found) or 'no task folder'}")
    meant = [folder for folder in found if one_name(folder) == task]
    if len(meant) > 1:
        raise ValueError(f"{root} holds {' and '.join(meant)}, which are both {task}: keep one")
    if meant:
        return found[meant[0]]
    if task in ("all", *family.suite):
        raise ValueError(
            f"data.task={task} means several tasks, which only vision-peft train and check-data run: name one"
        )
    raise UnknownTask(str(unknown("data.task", task, dict.fromkeys([*found, *map(one_name, found)]))))


def task_as_root_error(root: Path) -> ValueError:
    """Make the error for a `data.root` that is a task folder, not one of task folders."""
    return ValueError(f"data.root={root} is itself a task folder: give data.root={root.parent} data.task={root.name}")
