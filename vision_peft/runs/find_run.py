"""Find the folder of a run, also of one that an earlier version named in another way, and compare what was trained."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config, parse_config
from vision_peft.config.run_id import comparable_fields, run_folder
from vision_peft.runs.run_config import CONFIG, read_config


def find_run(config: Config) -> Path:
    """Return the folder of the run of `config`: the one that is there already, else the one to make.

    Earlier versions put another hash into the name, so a folder beside it whose config.yaml agrees in every setting is
    the run as well.
    """
    folder = run_folder(config)
    if (folder / CONFIG).exists() or not folder.parent.is_dir():
        return folder
    name = re.fullmatch(r"(.*-)[0-9a-f]{8}(-seed\d+)", folder.name)
    beside = sorted(folder.parent.glob(f"{name[1]}????????{name[2]}/{CONFIG}")) if name else []
    return next((path.parent for path in beside if _is_same(config, path.parent)), folder)


def check_same(config: Config, folder: Path) -> None:
    """Compare the config with the one that the run in `folder` was made with.

    Raises:
        ValueError: they differ, and in what.
    """
    raw = read_config(folder)
    try:
        theirs = comparable_fields(parse_config(raw))
    except ConfigError as error:
        raise ValueError(
            f"{folder / CONFIG} is from a version whose settings are no longer supported ({error.problems[0]}): "
            "nothing was changed; take another output_dir, or start over with overwrite=true"
        ) from None
    differing = _compare(theirs, comparable_fields(config))
    if differing:
        raise ValueError(
            f"{folder} holds the run of another config ({'; '.join(differing[:10])}): nothing was changed; take "
            "another output_dir, or start over with overwrite=true"
        )


def find_other_root(config: Config, folder: Path) -> str | None:
    """Return the `data.root` that the run in `folder` was started with, where it is another folder that is still there.

    It may hold the same data, or other data under the same name.
    """
    before, now = (str(data.get("root") or "") for data in (read_config(folder).get("data", {}), asdict(config.data)))
    other = before and now and Path(before).is_dir() and Path(now).is_dir() and not Path(before).samefile(now)
    return before if other else None


def find_parent(folder: Path) -> Path:
    """Find `folder`, or the nearest one above it that exists: all processes of a run can see what is in there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _is_same(config: Config, folder: Path) -> bool:
    try:
        return not _compare(comparable_fields(parse_config(read_config(folder))), comparable_fields(config))
    except (ValueError, OSError):
        return False


def _compare(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {theirs.get(key)} there, {ours.get(key)} here"
        for key in sorted(ours | theirs)
        if ours.get(key) != theirs.get(key)
    ]
