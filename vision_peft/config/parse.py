"""From a composed config, a nest of plain dicts, to one checked `Config`, with every error found at once."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import vision_peft as vp
from vision_peft.config.renames import describe_renamed_key, describe_renamed_value
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings, twin
from vision_peft.data import DATASETS, DataConfig
from vision_peft.data.transforms.clips import CLIP_AUGMENTS
from vision_peft.data.transforms.images import AUGMENTS
from vision_peft.suggest import did_you_mean, find_closest
from vision_peft.tuning.method import Method

METHOD_KEYS = ("method", "method_2", "method_3", "method_4")
GROUPS = ("backbone", *METHOD_KEYS, "data", "recipe")
SECTIONS = (*GROUPS, "distributed")
# What may change without making another run: it moves no number beyond rounding, or only says when to save or stop.
# `max_bad_fraction` and `bad_eval` decide whether a run with undecodable files ends in a number or in an error: a run
# that was stopped by them goes on where it was once they allow it.
NOT_PART_OF_A_RUN = (
    "output_dir",
    "overwrite",
    "dry_run",
    "save_every",
    "device",
    "workers",
    "read_test",
    "cache_mb",
    "reuse_features",
    "max_bad_fraction",
    "bad_eval",
    "grid",
    "distributed",
    "keep_states",
    "on_save_error",
    "trackers",
    "max_time",
    "requeue_file",
    "max_bad_steps",
    "channels_last",
    "fused",
)


class ConfigError(ValueError):
    """A config that cannot be run; the message lists every problem, one a line."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(kw_only=True)
class Config(Settings):
    """A whole checked config."""

    backbone: BackboneConfig
    methods: tuple[Method, ...]  # in the order in which they are attached
    data: DataConfig
    recipe: Recipe
    distributed: Distributed = field(default_factory=Distributed)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol == "auto":
            self.protocol = self.data.protocol
        if self.recipe.early_stopping and not self.protocol.startswith("val_select"):
            raise ValueError(f"recipe.early_stopping needs a val split to watch, protocol={self.protocol} has none")
        recipe, clips = self.recipe, self.backbone.num_frames is not None
        choices = CLIP_AUGMENTS if clips else AUGMENTS
        problems = []
        if recipe.augment not in choices:
            kind = "clips" if clips else "single images (backbone.num_frames=null)"
            problems.append(f"recipe.augment={recipe.augment} is not for {kind}: there are {', '.join(choices)}")
        if not clips and (recipe.views > 1 or recipe.crops > 1):
            values = f"recipe.views={recipe.views} and recipe.crops={recipe.crops}"
            problems.append(f"{values} are for clips: give backbone.num_frames as well")
        if problems:
            raise ValueError("\n".join(problems))


def parse_config(raw: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> Config:
    """Check a composed config and build the typed one.

    Args:
        raw: plain nested dicts, as in a run's config.yaml.
        choices: for each group the file it was read from, which names a method or dataset whose file has no `name`.

    Raises:
        ConfigError: unknown keys, wrong types and refused values, all of them.
    """
    choices = choices or {}
    known = [*(item.name for item in fields(Settings)), *SECTIONS]
    problems = [_unknown(key, known, "config") for key in raw if key not in known]
    parts: dict[str, Any] = {}
    settings = _build(Settings, {key: raw[key] for key in raw if key in known and key not in SECTIONS}, "", problems)
    for key in SECTIONS:
        section = raw.get(key, {} if key == "distributed" else None)
        if section is None and key not in METHOD_KEYS[1:]:
            problems.append(f"{key} is missing: choose one with {key}=<name>")
        elif section is not None and not isinstance(section, Mapping):
            problems.append(f"{key} must be a group of keys, got {section!r}; the name of a file in configs/{key}?")
        elif section is not None:
            parts[key] = _part(key, dict(section), choices.get(key), problems)
    if problems:
        raise ConfigError(problems)
    methods = tuple(parts[key] for key in METHOD_KEYS if key in parts)
    try:
        return Config(
            **asdict(settings),
            backbone=parts["backbone"],
            methods=methods,
            data=parts["data"],
            recipe=parts["recipe"],
            distributed=parts["distributed"],
        )
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error


def parse_data(section: Mapping[str, Any], choice: str | None = None) -> DataConfig:
    """Check and build a data section alone; ConfigError lists its problems."""
    problems: list[str] = []
    data = _part("data", dict(section), choice, problems)
    if problems:
        raise ConfigError(problems)
    return data


def parse_backbone(section: Mapping[str, Any]) -> BackboneConfig:
    """Check and build a backbone section alone; ConfigError lists its problems."""
    problems: list[str] = []
    backbone = _part("backbone", dict(section), None, problems)
    if problems:
        raise ConfigError(problems)
    return backbone


def to_dict(config: Config) -> dict[str, Any]:
    """Convert the resolved config to plain nested dicts that `parse_config` reads back; config.yaml holds them."""
    raw: dict[str, Any] = {"backbone": asdict(config.backbone)}
    raw |= {key: method_entry(method) for key, method in zip(METHOD_KEYS, config.methods, strict=False)}
    raw["data"] = {"name": config.data.name, **asdict(config.data)}
    raw |= {"recipe": asdict(config.recipe), "distributed": asdict(config.distributed)}
    raw |= {item.name: getattr(config, item.name) for item in fields(Settings)}
    return _plain(raw)


def method_entry(method: Method) -> dict[str, Any]:
    """Name and fields of a method, flat."""
    return {"name": method.name, **{item.name: getattr(method, item.name) for item in fields(method)}}


def run_folder(config: Config) -> Path:
    """Where the run lies: a function of the config alone, never of the clock.

    ``output_dir/<dataset[-task]>/<backbone>/<methods>/<recipe>-<hash>-seed<k>``. The hash covers every key that can
    move a number, except the seed, so that the seeds of one setting lie side by side.
    """
    raw = identity(config)
    del raw["seed"]
    digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:8]
    recipe = config.recipe
    data = "-".join(filter(None, (config.data.name, task_name(config.data))))
    size = config.backbone.img_size
    pixels = "x".join(map(str, size)) if isinstance(size, tuple) else size
    backbone = f"{config.backbone.name}-{pixels}px" if pixels else config.backbone.name
    backbone += f"-{config.backbone.num_frames}frames" if config.backbone.num_frames else ""
    methods = "+".join(_method_words(method) for method in config.methods)
    bits = f"{config.protocol}-lr{recipe.lr:g}-epochs{recipe.epochs}-batch{recipe.batch_size}"
    names = (data, backbone, methods, f"{bits}-{digest}-seed{config.seed}")
    return Path(config.output_dir).joinpath(*(_as_file_name(name) for name in names))


def identity(config: Config) -> dict[str, Any]:
    """Select the part of a resolved config that identifies a run."""
    return {key: value for key, value in to_dict(config).items() if key not in NOT_PART_OF_A_RUN}


def task_name(data: DataConfig) -> str | None:
    """Name the task of a dataset that has several, or the folder of one that is nothing but a folder."""
    values = asdict(data)
    if (task := values.get("task")) is not None:
        return str(task)
    if (split := values.get("split")) is not None:
        return f"split{split}"
    return Path(values["root"]).resolve().name if values.get("root") is not None else None


def flatten(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _part(key: str, section: dict[str, Any], choice: str | None, problems: list[str]) -> Any:
    if key == "backbone":
        return _build(BackboneConfig, section, "backbone.", problems)
    if key == "recipe":
        return _build(Recipe, section, "recipe.", problems)
    if key == "distributed":
        return _build(Distributed, section, "distributed.", problems)
    classes: Mapping[str, type] = DATASETS if key == "data" else vp.METHODS
    name = section.pop("name", choice)
    if not isinstance(name, str) or name not in classes:
        hint = did_you_mean(str(name), list(classes))
        problems.append(f"{key}.name must be one of {', '.join(classes)}; got {name!r}{hint}")
        return None
    return _build(classes[name], section, f"{key}.", problems)


def _build(cls: type, section: dict[str, Any], prefix: str, problems: list[str]) -> Any:
    """Check one section against the twin of `cls`, key by key, then let `cls` check the values."""
    known = [item.name for item in fields(cls)]
    found = [
        describe_renamed_key(f"{prefix}{key}", section[key])
        or _unknown(key, known, prefix.rstrip(".") or "config", prefix)
        for key in section
        if key not in known
    ]
    found += filter(None, (describe_renamed_value(f"{prefix}{key}", value) for key, value in section.items()))
    schema = OmegaConf.structured(twin(cls))
    for key in known:
        if key not in section:
            continue
        try:
            schema[key] = section[key]
        except OmegaConfBaseException as error:
            found.append(f"{prefix}{key}: {str(error).splitlines()[0]}")
    for key in known:
        if OmegaConf.is_missing(schema, key) and not any(problem.startswith(f"{prefix}{key}:") for problem in found):
            found.append(f"{prefix}{key} is needed: give {prefix}{key}=<value>")
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


def _unknown(key: Any, known: list[str], where: str, prefix: str = "") -> str:
    close = find_closest(str(key), known, cutoff=0.5)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"{where} has {', '.join(known)}"
    return f"unknown key {prefix}{key}: {hint}"


def _method_words(method: Method) -> str:
    """Write a method's name and the fields that differ from its defaults: ``lora-rank4-targets_q_k``."""
    changed = [item for item in fields(method) if getattr(method, item.name) != item.default]
    return "-".join([method.name, *(f"{item.name}{_word(getattr(method, item.name))}" for item in changed)])


def _word(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "".join(f"_{item}" for item in value)
    return f"_{value}" if isinstance(value, str) else str(value).lower()


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "_", text)[:150]


def _plain(value: Any) -> Any:
    """Only what YAML and JSON know: tuples become lists, paths text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
