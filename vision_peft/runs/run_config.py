"""Read the config.yaml of a run, which may come from someone else: nothing in it is looked up or run."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vision_peft.config.renames import with_todays_names
from vision_peft.data.loading.worker_limit import too_many_workers
from vision_peft.printable import LONGEST_LINE, name_some, printable
from vision_peft.safe_files import read_file
from vision_peft.strict_json import LARGEST
from vision_peft.strict_yaml import MAX_BYTES, check_yaml

CONFIG = "config.yaml"


def read_config(folder: Path) -> dict[str, Any]:
    """Read the resolved config of a run as plain nested dicts; nothing in it is looked up or run.

    Keys and values that had another name in earlier versions have the name of today.

    Raises:
        FileNotFoundError: no config there.
        ValueError: it cannot be read, or holds what a resolved config does not: interpolations, references, objects.
    """
    try:
        text = read_file(folder / CONFIG, MAX_BYTES).decode()
        check_yaml(text)
        raw = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is not a run folder: it has no {CONFIG}") from None
    except Exception as error:  # YAML and OmegaConf have no error class in common
        reason = printable(" ".join(str(error).split()), LONGEST_LINE)
        raise ValueError(f"{folder / CONFIG} cannot be read: {reason}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{folder / CONFIG} must hold keys and values")
    if problems := list(_find_not_plain(raw)):
        raise ValueError(f"{folder / CONFIG}: {name_some(problems)}; the config of a run holds plain values")
    named = with_todays_names({str(key): value for key, value in raw.items()})
    workers = named.get("workers")
    if type(workers) is int and too_many_workers(workers):  # the run is of a machine with more cores
        named["workers"] = "auto"
    return named


def describe_runs_below(folder: Path, named: int = 3, most: int = 1000) -> str:
    """Say for a message which runs are somewhere below a folder that is not one; "" where there are none."""
    found = sorted(str(path.parent) for path in itertools.islice(folder.rglob(CONFIG), most))
    return f"; below it are the runs {name_some(found, named)}: name one of them" if found else ""


def _find_not_plain(value: Any, key: str = "") -> Iterator[str]:
    """Find what is neither text, a number nor a container of them, and text that would be looked up elsewhere."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _find_not_plain(inner, f"{key}.{name}" if key else str(name))
        if not key:
            groups = [name for name in ("backbone", "data", "distributed") if not isinstance(value.get(name, {}), dict)]
            yield from (f"{name} is not a group of keys" for name in groups)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _find_not_plain(inner, f"{key}[{number}]")
    elif isinstance(value, str) and "${" in value:
        yield f"{key} is an interpolation ({value[:40]!r})"
    elif value is not None and not isinstance(value, str | int | float):
        yield f"{key} is a {type(value).__name__}"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key} is {value}"
    elif isinstance(value, int) and abs(value) >= LARGEST:
        yield f"{key} is a whole number of 2^64 or more"
