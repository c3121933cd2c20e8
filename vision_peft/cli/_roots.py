"""Check that the folders of data are there before torch is loaded."""

from collections.abc import Sequence
from pathlib import Path

from vision_peft.config.command_line import Composed
from vision_peft.config.find_configs import list_configs
from vision_peft.data.root import find_root


def check_roots(runs: Sequence[Composed]) -> None:
    """Raise what reading the data would raise where `data.root` is not given or is not there.

    Where there are runs on a dataset of that name already, this is left to the training: a finished run is reported
    without its data.
    """
    known = list_configs("data")
    for run in runs:
        data = run.raw["data"]
        name = str(data.get("name", run.choices.get("data")))
        if data.get("hub"):
            continue  # not a folder
        if name in known and "root" in data and not any(Path(str(run.raw["output_dir"])).glob(f"{name}*")):
            find_root(data["root"], name)
