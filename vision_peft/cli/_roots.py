"""Check before torch is loaded that the folders of data are there, and that runs can be written where they should."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from vision_peft.config.command_line import Composed
from vision_peft.config.find_configs import list_configs
from vision_peft.data.root import find_root


def check_roots(runs: Sequence[Composed]) -> None:
    """Raise what reading the data would raise where `data.root` is not given or is not there; check `output_dir` too.

    Where there are runs on a dataset of that name already, this is left to the training: a finished run is reported
    without its data.

    Raises:
        ValueError, OSError: a folder is not given, not there, a file, or one that cannot be written.
    """
    known, checked = list_configs("data"), set[str]()
    for run in runs:
        data = run.raw["data"]
        name, output_dir = str(data.get("name", run.choices.get("data"))), str(run.raw["output_dir"])
        if output_dir not in checked:
            check_output_dir(output_dir, name)
            checked.add(output_dir)
        if data.get("hub"):
            continue  # not a folder
        if name in known and "root" in data and not _holds_runs(output_dir, name):
            find_root(data["root"], name)


def check_output_dir(output_dir: str, name: str) -> None:
    """Check that runs on the dataset `name` can be written below `output_dir`, by making a folder and removing it.

    Raises:
        OSError: it is a file, or no folder can be made there; the message names the key.
    """
    try:
        folder = Path(output_dir).absolute()
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir():
            where = "" if nearest == folder else f"lies below {nearest}, which "
            raise NotADirectoryError(f"output_dir={output_dir} {where}is a file: give a folder, new or not")
        if not _holds_runs(output_dir, name):
            with tempfile.TemporaryDirectory(prefix=".vision-peft-", dir=nearest):
                return
    except NotADirectoryError:
        raise
    except OSError as error:
        raise OSError(
            f"output_dir={output_dir} cannot be written ({error.strerror}): give a folder in which you may make files"
        ) from error


def _holds_runs(output_dir: str, name: str) -> bool:
    return any(Path(output_dir).glob(f"{name}*"))
