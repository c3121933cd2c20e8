"""The sections of a composed config, checked key by key. Nothing here imports torch: a typo is answered at once."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import find_configs
from vision_peft.config.omegaconf_schema import omegaconf_schema
from vision_peft.config.recommended import drop_left_out
from vision_peft.config.renames import describe_renamed_key, describe_renamed_value
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings
from vision_peft.suggest import find_closest

METHOD_KEYS = ("method", "method_2", "method_3", "method_4")
GROUPS = ("backbone", *METHOD_KEYS, "data", "recipe")
SECTIONS = (*GROUPS, "distributed")
MOST_DESCRIBED = 20  # unknown keys of a section
_CLASSES = {"backbone": BackboneConfig, "recipe": Recipe, "distributed": Distributed}

# Builds a method or a data section, whose class its `name` says, or else the file it was chosen from.
BuildNamed = Callable[[str, dict[str, Any], str | None, list[str]], Any]


def build_sections(
    raw: Mapping[str, Any], choices: Mapping[str, str], build_named: BuildNamed, problems: list[str]
) -> tuple[Settings | None, dict[str, Any]]:
    """Build the settings and every section of a composed config; what is wrong with them is added to `problems`.

    Args:
        raw: plain nested dicts, as in a run's config.yaml.
        choices: for each group the file it was read from.
        build_named: what builds the sections of methods and data.
    """
    known = [*(item.name for item in fields(Settings)), *SECTIONS]
    problems += _describe_all([key for key in raw if key not in known], known, "config")
    own = {key: raw[key] for key in raw if key in known and key not in SECTIONS}
    settings, parts = build_section(Settings, own, "", problems), {}
    for key in SECTIONS:
        section = raw.get(key, {} if key == "distributed" else None)
        if section is None and key not in METHOD_KEYS[1:]:
            problems.append(f"{key} is missing: choose one with {key}=<name>")
        elif section is not None and not isinstance(section, Mapping):
            problems.append(f"{key} must be a group of keys, got {section!r}; the name of a file in configs/{key}?")
        elif section is not None and key in _CLASSES:
            given = drop_left_out(section) if key == "recipe" else dict(section)
            parts[key] = build_section(_CLASSES[key], given, f"{key}.", problems)
        elif section is not None:
            parts[key] = build_named(key, dict(section), choices.get(key), problems)
    return settings, parts


def check_keys(raw: Mapping[str, Any], choices: Mapping[str, str]) -> None:
    """Check all that can be checked without the classes of methods and datasets, which need torch.

    The keys of a method or a dataset are those of its config file. A name without a file is left to `parse_config`.

    Raises:
        ConfigError: unknown keys, wrong types and refused values, all that were found.
    """
    problems: list[str] = []
    build_sections(raw, choices, check_by_file, problems)
    if problems:
        raise ConfigError(problems)


def build_section(cls: type, section: dict[str, Any], prefix: str, problems: list[str]) -> Any:
    """Check one section against the schema of `cls`, key by key, then let `cls` check the values; None if it fails."""
    known = [item.name for item in fields(cls)]
    found = _find_unknown(section, known, prefix)
    schema = copy.deepcopy(_create_schema(cls))  # which takes a third of the time of creating it
    for key in known:
        if key not in section:
            continue
        try:
            schema[key] = section[key]
        except OmegaConfBaseException as error:
            found.append(f"{prefix}{key}: {str(error).splitlines()[0]}")
    for key in known:
        if OmegaConf.is_missing(schema, key) and not any(problem.startswith(f"{prefix}{key}:") for problem in found):
            found.append(f"{prefix}{key} is required: give {prefix}{key}=<value>")
    problems += found
    if found:
        return None
    try:
        values = OmegaConf.to_container(schema, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        return cls(**{str(key): tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except (ValueError, TypeError, MissingMandatoryValue) as error:
        problems += [line if line.startswith(prefix) else prefix + line for line in str(error).splitlines()]
        return None


@functools.cache
def _create_schema(cls: type) -> DictConfig:
    return OmegaConf.structured(omegaconf_schema(cls))


def flatten(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def check_by_file(key: str, section: dict[str, Any], choice: str | None, problems: list[str]) -> None:
    """Compare the keys of a method or data section with those of its config file."""
    name = section.pop("name", choice)
    file = find_configs() / key.partition("_")[0] / f"{name}.yaml"
    if isinstance(name, str) and file.is_file():
        known = [str(field) for field in OmegaConf.load(file) if field != "name"]
        problems += _find_unknown(section, known, f"{key}.")


def _find_unknown(section: Mapping[str, Any], known: list[str], prefix: str) -> list[str]:
    """Describe the keys that are not known, and the keys and values that have another name by now."""
    where = prefix.rstrip(".") or "config"
    others = [key for key in section if key not in known]
    renamed = {key: text for key in others if (text := describe_renamed_key(f"{prefix}{key}", section[key]))}
    found = [*renamed.values(), *_describe_all([key for key in others if key not in renamed], known, where, prefix)]
    return [*found, *filter(None, (describe_renamed_value(f"{prefix}{key}", value) for key, value in section.items()))]


def _describe_all(keys: Sequence[Any], known: list[str], where: str, prefix: str = "") -> list[str]:
    """Describe unknown keys: the first ones each, the others by their number."""
    more = len(keys) - MOST_DESCRIBED
    found = [_describe_unknown(key, known, where, prefix) for key in keys[:MOST_DESCRIBED]]
    return [*found, f"{more:,} more unknown keys in {where}"] if more > 0 else found


def _describe_unknown(key: Any, known: list[str], where: str, prefix: str = "") -> str:
    close = find_closest(str(key), known, cutoff=0.5)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"{where} has {', '.join(known)}"
    return f"unknown key {prefix}{key}: {hint}"
