"""From a composed config, a nest of plain dicts, to one checked `Config`, with every error found at once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import vision_peft as vp
from vision_peft.config.errors import ConfigError
from vision_peft.config.recommended import recommend_recipe
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings
from vision_peft.config.sections import METHOD_KEYS, build_section, build_sections
from vision_peft.data import DATASETS, DataConfig
from vision_peft.data.choices import AUGMENTS, CLIP_AUGMENTS, MASK_AUGMENTS, RGB_AUGMENTS
from vision_peft.data.normalisation import find_normalisation_problem
from vision_peft.fields import raise_all
from vision_peft.suggest import did_you_mean
from vision_peft.tuning.method import Method


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
            raise ValueError(f"recipe.early_stopping needs a val split, and protocol={self.protocol} has none")
        recipe, clips = self.recipe, self.backbone.num_frames is not None
        choices = CLIP_AUGMENTS if clips else MASK_AUGMENTS if recipe.answers_maps else AUGMENTS
        problems = self.data.find_part_problems()
        if recipe.augment not in choices:
            kind = (
                "clips"
                if clips
                else "images with masks"
                if recipe.answers_maps
                else "single images (backbone.num_frames=null)"
            )
            problems.append(f"recipe.augment={recipe.augment} is not for {kind}: there are {', '.join(choices)}")
        channels = getattr(self.data, "channels", None)
        problems.append(find_normalisation_problem(recipe.normalisation, self.data))
        given = self.backbone.in_chans or self.backbone.kwargs.get("in_chans")
        if given not in (None, channels or 3):
            of_data = "RGB (data.channels=null)" if channels is None else f"of data.channels={channels}"
            problems.append(f"backbone.in_chans={given} does not fit the images, which are {of_data}: leave it out")
        if channels is not None and recipe.augment in RGB_AUGMENTS:
            problems.append(
                f"recipe.augment={recipe.augment} changes colours, so it does not fit bands (data.channels): "
                "give none, flip or a crop"
            )
        if not clips and (recipe.views != 1 or recipe.crops > 1):
            values = f"recipe.views={recipe.views} and recipe.crops={recipe.crops}"
            problems.append(f"{values} are for clips: give backbone.num_frames as well")
        raise_all(problems)


def parse_config(raw: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> Config:
    """Check a composed config and build the typed one.

    Args:
        raw: plain nested dicts, as in a run's config.yaml.
        choices: for each group the file it was read from, which names a method or dataset whose file has no `name`.

    Raises:
        ConfigError: unknown keys, wrong types and refused values, all of them.
    """
    problems: list[str] = []
    settings, parts = build_sections(raw, choices or {}, _build_named, problems)
    if problems or settings is None:
        raise ConfigError(problems)
    methods = tuple(parts[key] for key in METHOD_KEYS if key in parts)
    others = {key: parts[key] for key in ("backbone", "data", "recipe", "distributed")}
    recommended = {k: v for k, v in recommend_recipe(methods).items() if raw["recipe"].get(k) is None}
    try:
        others["recipe"] = replace(others["recipe"], **recommended)
        return Config(**asdict(settings), methods=methods, **others)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error


def parse_data(section: Mapping[str, Any], choice: str | None = None) -> DataConfig:
    """Check and build a data section alone; ConfigError lists its problems."""
    problems: list[str] = []
    data = _build_named("data", dict(section), choice, problems)
    if problems:
        raise ConfigError(problems)
    return data


def parse_backbone(section: Mapping[str, Any]) -> BackboneConfig:
    """Check and build a backbone section alone; ConfigError lists its problems."""
    problems: list[str] = []
    backbone = build_section(BackboneConfig, dict(section), "backbone.", problems)
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
    return {"name": method.name, **method.recorded_fields()}


def _build_named(key: str, section: dict[str, Any], choice: str | None, problems: list[str]) -> Any:
    classes: Mapping[str, type] = DATASETS if key == "data" else vp.METHODS
    name = section.pop("name", choice)
    if not isinstance(name, str) or name not in classes:
        hint = did_you_mean(str(name), list(classes))
        problems.append(f"{key}.name must be one of {', '.join(classes)}; got {name!r}{hint}")
        return None
    kind = classes[name]
    return build_section(
        kind, kind.read_fields(section) if issubclass(kind, vp.Method) else section, f"{key}.", problems
    )


def _plain(value: Any) -> Any:
    """Only what YAML and JSON know: tuples become lists, paths text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
