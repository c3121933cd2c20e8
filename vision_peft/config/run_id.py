"""What a run is, and the folder that is named after it: a function of the config alone, never of the clock."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from vision_peft.config.parse import Config, to_dict
from vision_peft.config.schema import Settings
from vision_peft.config.sections import METHOD_KEYS, flatten
from vision_peft.config.typed_values import DATA_FIELDS
from vision_peft.data import DataConfig
from vision_peft.distributed.device import choose_device, choose_precision
from vision_peft.tuning.method import Method

# What may change without making another run: it moves no number beyond rounding, or only says when to save or stop.
# `max_bad_fraction` and `bad_eval` decide whether a run with undecodable files ends in a number or in an error: a run
# that was stopped by them goes on where it was once they allow it.
NOT_IN_RUN_ID = (
    "output_dir",
    "overwrite",
    "dry_run",
    "save_every",
    "device",
    "workers",
    "read_test",
    "cache_mb",
    "reuse_features",
    "reuse_file_mb",
    "reuse_folder",
    "max_bad_fraction",
    "bad_eval",
    "check_files",
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
    "memory",
)
MOUNT_POINTS = ("root", "cache")  # fields of a dataset that say where it is on this machine
CHECKPOINT = "backbone.checkpoint"


def run_folder(config: Config) -> Path:
    """Return where the run of a config is kept.

    ``output_dir/<dataset[-task]>/<backbone>/<methods>/<recipe>-<hash>-seed<k>``. The hash covers `run_id_fields` except
    the seed, so that the seeds of one setting are side by side.
    """
    fields_ = {key: value for key, value in run_id_fields(config).items() if key != "seed"}
    digest = hashlib.sha256(json.dumps(fields_, sort_keys=True).encode()).hexdigest()[:8]
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


def run_id_fields(config: Config) -> dict[str, Any]:
    """Return what makes a run what it is: the settings that differ from the defaults, and names, as dotted keys.

    A key that a later version adds with a default changes nothing. Precision is the one that `auto` comes to on this
    machine; where the data is mounted does not matter.
    """
    raw = _without_mounts(to_dict(config))
    kept: dict[str, Any] = {"protocol": config.protocol, "precision": resolve_precision(config), "seed": config.seed}
    own = {item.name: raw[item.name] for item in fields(Settings) if raw[item.name] != _default(item)}
    kept |= {key: value for key, value in own.items() if key not in (*NOT_IN_RUN_ID, *kept)}
    parts = {"backbone": config.backbone, "data": config.data, "recipe": config.recipe}
    parts |= dict(zip(METHOD_KEYS, config.methods, strict=False))
    for key, part in parts.items():
        section = raw[key]
        changed = [item.name for item in fields(part) if item.name in section and section[item.name] != _default(item)]
        values = {name: section[name] for name in changed}
        if "name" in section:
            values["name"] = section["name"]
        kept |= flatten({key: values})
    return kept


def setting_fields(config: Config, weights: str | None = None, world_size: int = 1) -> dict[str, Any]:
    """Return what all seeds of one experiment share and nothing else may differ in, as dotted keys.

    It is `run_id_fields` without the seed and the task, which stand in a result row by themselves.

    Args:
        config: of the run.
        weights: hash of the files that the backbone comes from, see `backbones.file_hash`; None where its name says it.
        world_size: processes that train: each draws numbers of its own.
    """
    task = f"data.{_task_field(config.data)}"
    kept = {key: value for key, value in run_id_fields(config).items() if key not in ("seed", task)}
    if config.backbone.checkpoint is not None:
        kept[CHECKPOINT] = Path(config.backbone.checkpoint).name
    if weights is not None:
        kept["backbone.sha256"] = weights
    return kept if world_size == 1 else kept | {"world_size": world_size}


def digest_setting(fields_: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name a setting; the same weights in a file of another name are the same."""
    content = {key: value for key, value in fields_.items() if key != CHECKPOINT or "backbone.sha256" not in fields_}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def comparable_fields(config: Config) -> dict[str, Any]:
    """Return every setting that two starts of the same run must agree on, defaults as well, as dotted keys."""
    raw = {key: value for key, value in _without_mounts(to_dict(config)).items() if key not in NOT_IN_RUN_ID}
    return flatten(raw | {"precision": resolve_precision(config)})


def resolve_precision(config: Config) -> str:
    """Return the precision that the run computes in on this machine; as it was typed where that cannot be had here."""
    try:
        return choose_precision(config.precision, choose_device(config.device))
    except ValueError:
        return config.precision


def task_name(data: DataConfig) -> str | None:
    """Name the task of a dataset that has several, or the folder's name of one that is nothing but a folder."""
    field = _task_field(data)
    if field is None:
        return None
    value = str(getattr(data, field))
    return {"split": f"split{value}", "root": Path(value).resolve().name}.get(field, value)


def _task_field(data: DataConfig) -> str | None:
    """Name the field of a dataset that says which of its tasks is meant; None where there is only one."""
    return next((name for name in ("task", "split", "hub", "root") if getattr(data, name, None) is not None), None)


def _without_mounts(raw: dict[str, Any]) -> dict[str, Any]:
    """Leave out where the data is on this machine; absolute paths below its root become relative."""
    data = dict(raw["data"])
    root = str(data.get("root") or "")
    for field in DATA_FIELDS:
        value = data.get(field)
        if root and isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(root):
            data[field] = Path(value).relative_to(root).as_posix()
    return raw | {"data": {key: value for key, value in data.items() if key not in MOUNT_POINTS}}


def _default(item: Any) -> Any:
    """Return the default of a field as config.yaml would hold it; MISSING where there is none."""
    return _listed(item.default if item.default_factory is MISSING else item.default_factory())


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _method_words(method: Method) -> str:
    """Name a method with the fields that differ from its defaults: ``lora-rank4-targets_q_k``."""
    defaults = {item.name: _default(item) for item in fields(method)}
    changed = {name: value for name, value in method.recorded_fields().items() if _listed(value) != defaults[name]}
    return "-".join([method.name, *(f"{name}{_word(value)}" for name, value in changed.items())])


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"_{key}{item}" for key, item in value.items())
    if isinstance(value, tuple | list):
        return "".join(f"_{item}" for item in value)
    return f"_{value}" if isinstance(value, str) else str(value).lower()


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "_", text)[:150]
