"""The overrides of verbs that read data without training: `data=<config> data.<key>=... split=...`. Free of torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import find_configs, find_unbounded_files, list_configs
from vision_peft.config.sections import check_by_file
from vision_peft.config.typed_values import quote_values
from vision_peft.suggest import did_you_mean

VALUES = ("data", "split", "device", "precision", "workers", "bad_eval", "views", "crops")
SECTIONS = ("data", "backbone")


def read_overrides(
    overrides: Sequence[str],
    values: Sequence[str] = VALUES,
    sections: Sequence[str] = SECTIONS,
    config_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Return the overrides as nested dicts, the name of a data config as `data_config`.

    `config_dir` is a folder with more configs, which is recorded under that name.

    Raises:
        ConfigError: every override that cannot be read or is not known.
    """
    given: dict[str, Any] = {}
    problems = []
    if config_dir is not None:
        given["config_dir"] = str(config_dir)
        if not Path(config_dir).is_dir():
            raise ConfigError([f"--config-dir={config_dir} is not a folder: wanted one with data/*.yaml and the like"])
        if unbounded := find_unbounded_files(Path(config_dir)):
            raise ConfigError(unbounded)
    for text in quote_values(overrides):
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            problems.append(f"{' '.join(str(error).split())} (write key=value)")
            continue
        key, *rest = override.key_or_group.split(".")
        if override.key_or_group not in values and not (rest and key in sections):
            known = [*values, *(f"{name}.<key>" for name in sections)]
            hint = did_you_mean(override.key_or_group, known)
            problems.append(f"unknown key {override.key_or_group}{hint}; keys: {', '.join(known)}")
        elif key == "data" and not rest:
            given["data_config"] = str(override.value())
        elif not rest:
            given[key] = override.value()
        else:
            OmegaConf.update(section := OmegaConf.create(given.get(key, {})), ".".join(rest), override.value())
            given[key] = OmegaConf.to_container(section)
    if not problems and "data_config" in given:
        section, options = given.get("data", {}), list_configs("data", _further_folders(given))
        if (name := given["data_config"]) not in options:
            problems.append(f"data={name}: no such config{did_you_mean(name, options)}; there are {', '.join(options)}")
        check_by_file("data", dict(section), name, problems)
    if problems:
        raise ConfigError(problems)
    return given


def fill_data(given: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data section of a run, or of the config that was named in its place, under what was typed.

    Raises:
        ValueError: neither names a dataset.
    """
    name = given.get("data_config")
    if name is None and not recorded:
        raise ValueError("an adapter folder does not say which data it is for: give data=<config> (and data.root=...)")
    section = dict(recorded)
    if name is not None:
        folders = (*_further_folders(given), find_configs())
        file = next(file for folder in folders if (file := folder / "data" / f"{name}.yaml").is_file())
        try:
            raw = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
        except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
            raise ConfigError([f"{file} cannot be read: {' '.join(str(error).split())}"]) from error
        section = {"name": name, **(raw if isinstance(raw, dict) else {})}
    return {**{str(key): value for key, value in section.items()}, **given.get("data", {})}


def _further_folders(given: Mapping[str, Any]) -> tuple[Path, ...]:
    return (Path(given["config_dir"]),) if "config_dir" in given else ()
