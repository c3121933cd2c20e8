"""Find the folder of YAML files: package data of an installed wheel, the folder configs/ of a clone."""

import functools
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from vision_peft.config.errors import ConfigError
from vision_peft.safe_files import read_file
from vision_peft.strict_yaml import MAX_BYTES, check_yaml
from vision_peft.suggest import did_you_mean


@functools.cache
def find_configs() -> Path:
    """Return the folder that holds config.yaml and a folder for each group.

    Raises:
        ConfigError: this installation came without it.
    """
    package = Path(str(files("vision_peft")))
    installed, cloned = package / "configs", package.parent / "configs"
    if (installed / "config.yaml").is_file():
        return installed
    if (cloned / "config.yaml").is_file() and (package.parent / "setup.cfg").is_file():
        return cloned
    raise ConfigError(
        [f"vision_peft in {package} was installed without its configs: build the wheel from a complete clone"]
    )


def find_unbounded_files(folder: Path) -> list[str]:
    """Describe the configs in a user's folder that are longer, deeper or more than any true one; see `check_yaml`."""
    problems = []
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml"), *folder.glob("*/*/*.yaml")]):
        try:
            check_yaml(read_file(file, MAX_BYTES).decode(), references=True)
        except UnicodeDecodeError:  # said where it is read
            continue
        except (ValueError, OSError) as error:
            text = str(error)
            problems.append(text if text.startswith(str(file)) else f"invalid YAML: {file}: {text}")
    return problems


def list_configs(group: str, folders: tuple[Path, ...] = ()) -> list[str]:
    """Return the names of the configs of a group, with those in further folders."""
    found = (folder.joinpath(group).glob("*.yaml") for folder in (find_configs(), *folders))
    return sorted({file.stem for files_ in found for file in files_})


def describe_unknown_name(group: str, name: str, known: Sequence[str]) -> str:
    """Describe a name that no config of a group has: what is close, or how a model of timm is chosen."""
    if group == "backbone" and (model := _find_timm_model(name)):
        return f"no such config; a model of timm is chosen with backbone=timm backbone.name={model}"
    return f"no such config{did_you_mean(name, known)}; there are {', '.join(known)}"


def _find_timm_model(name: str) -> str | None:
    """Return the model that timm has of that name; asked of wrong names only: importing timm takes seconds."""
    import timm

    if name.partition(":")[0] in ("hf-hub", "local-dir"):
        return name
    return next((word for word in (name, name.lower()) if timm.is_model(word.partition(".")[0])), None)


def read_uncomposed(group: str, name: str, config_dir: str | Path | None = None) -> tuple[Any, Path]:
    """Read a file of a group that is not composed into the config of a run, and say which file it is.

    Raises:
        ConfigError: there is none of that name, or it cannot be read.
    """
    folders = (find_configs(), *([Path(config_dir)] if config_dir else []))
    known = list_configs(group, folders[1:])
    if name not in known:
        raise ConfigError([f"{group}={name}: {describe_unknown_name(group, name, known)}"])
    path = next(path for folder in reversed(folders) if (path := folder / group / f"{name}.yaml").is_file())
    text = read_file(path, MAX_BYTES).decode()
    try:
        check_yaml(text, references=True)
        return yaml.safe_load(text), path
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: {' '.join(str(error).split())}"]) from None
