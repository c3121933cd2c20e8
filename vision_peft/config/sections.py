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
from vision_peft.config.key_hints import describe_unknown
from vision_peft.config.omegaconf_schema import omegaconf_schema
from vision_peft.config.recommended import drop_left_out
from vision_peft.config.renames import describe_renamed_key, describe_renamed_value
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings

METHOD_KEYS = ("method", "method_2", "method_3", "method_4")
GROUPS = ("backbone", *METHOD_KEYS, "data", "recipe")
SECTIONS = (*GROUPS, "distributed")
MOST_DESCRIBED = 20  # unknown keys of a section
_CLASSES = {"backbone": BackboneConfig, "recipe": Recipe, "distributed": Distributed}

# Builds a method or a data section, whose class its `name` says, or else the file it was chosen from.
BuildNamed = Callable[[str, dict[str, Any], str | None, list[str]], Any]
Keys = Mapping[str, Sequence[str]]  # prefix of a section -> its keys


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
    others = list_keys(raw, choices)
    problems += _describe_all({key: raw[key] for key in raw if key not in known}, known, "", others)
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
            parts[key] = build_section(_CLASSES[key], given, f"{key}.", problems, others)
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


def build_section(
    cls: type, section: dict[str, Any], prefix: str, problems: list[str], others: Keys | None = None
) -> Any:
    """Check one section against the schema of `cls`, key by key, then let `cls` check the values; None if it fails.

    An unknown key is looked for in `others` too, the keys of further sections by prefix.
    """
    known = [item.name for item in fields(cls)]
    found = _find_unknown(section, known, prefix, others)
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
    known = _list_keys_of_file(key, name)
    if known is not None:
        problems += _find_unknown(section, known, f"{key}.")


def _list_keys_of_file(key: str, name: Any) -> list[str] | None:
    """List the keys that the config file of a method or a dataset has; None: there is no such file."""
    file = find_configs() / key.partition("_")[0] / f"{name}.yaml"
    if not isinstance(name, str) or not file.is_file():
        return None
    return [str(field) for field in OmegaConf.load(file) if field != "name"]


def list_keys(raw: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, list[str]]:
    """List the keys of every section by its prefix, those of the method and the data that were chosen too."""
    listed = {"": [*(item.name for item in fields(Settings)), *SECTIONS]}
    listed |= {f"{key}.": [item.name for item in fields(cls)] for key, cls in _CLASSES.items()}
    for key in ("method", "data"):
        section = raw.get(key)
        name = section.get("name", choices.get(key)) if isinstance(section, Mapping) else None
        listed[f"{key}."] = _list_keys_of_file(key, name) or []
    return listed


def _find_unknown(section: Mapping[str, Any], known: list[str], prefix: str, further: Keys | None = None) -> list[str]:
    """Describe the keys that are not known, and the keys and values that have another name by now."""
    others = {key: value for key, value in section.items() if key not in known}
    renamed = {key: text for key, value in others.items() if (text := describe_renamed_key(f"{prefix}{key}", value))}
    unknown = {key: value for key, value in others.items() if key not in renamed}
    found = [*renamed.values(), *_describe_all(unknown, known, prefix, further)]
    return [*found, *filter(None, (describe_renamed_value(f"{prefix}{key}", value) for key, value in section.items()))]


def _describe_all(unknown: Mapping[Any, Any], known: list[str], prefix: str, others: Keys | None) -> list[str]:
    """Describe unknown keys: the first ones each, the others by their number."""
    others = list_keys({}, {}) if others is None and unknown else others or {}
    more = len(unknown) - MOST_DESCRIBED
    first = list(unknown.items())[:MOST_DESCRIBED]
    found = [describe_unknown(str(key), value, known, prefix, others) for key, value in first]
    return [*found, f"{more:,} more unknown keys in {prefix.rstrip('.') or 'config'}"] if more > 0 else found
