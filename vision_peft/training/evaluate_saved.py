"""Evaluate what is in a run folder or an adapter folder, on its own data or on other data."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

import vision_peft as vp
from vision_peft.backbones import input_config
from vision_peft.config.command_line import CONFIGS
from vision_peft.config.parse import ConfigError, parse_backbone, parse_data
from vision_peft.config.schema import Distributed
from vision_peft.data import DataConfig
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.distributed.device import choose_compute, set_matmul_precision
from vision_peft.distributed.processes import join, rank0_first
from vision_peft.formats import read_adapter_info
from vision_peft.runs.run_config import CONFIG, read_config
from vision_peft.suggest import did_you_mean
from vision_peft.training.build import check_items, create_model
from vision_peft.training.evaluation import Metrics, check_classes, create_eval_loader, evaluate

VALUES = ("data", "split", "device", "precision", "workers", "bad_eval", "views", "crops")
SECTIONS = ("data", "backbone")
_RECORDED = {"img_size": "size", "num_frames": "num_frames", "tubelet_size": "tubelet_size"}  # backbone key -> input's
_UNRECORDED = {"resize": "squash", "sampling": "segments", "frame_stride": 1, "views": 1, "crops": 1}


@dataclass(frozen=True)
class Evaluation:
    """The figures of a split and what they belong to."""

    data: DataConfig
    split: str
    metrics: Metrics


def evaluate_saved(path: str | Path, overrides: Sequence[str] = ()) -> Evaluation:
    """Evaluate the adapter in `path`, a run folder or an adapter folder, as training did.

    Started by torchrun, the processes share the data and all get the figures of the whole.

    Args:
        path: a run folder brings its data, backbone and seed along; an adapter folder only its backbone's name.
        overrides: ``data=<config> data.<key>=... backbone.<key>=... split=test device=... precision=... workers=...
            bad_eval=error|wrong views=... crops=...`` (the last two: of every video).

    Raises:
        FileNotFoundError: nothing to evaluate at `path`.
        ValueError: unknown keys, data with other classes than the adapter, another backbone.
    """
    path = Path(path)
    given = _read(overrides)
    if (path / CONFIG).is_file():
        adapter, raw = path / "adapter", read_config(path)
    elif path.is_dir():
        adapter, raw = path, {}
    else:
        raise FileNotFoundError(f"{path} is not a folder: wanted a run folder or an adapter folder")
    if raw and not adapter.is_dir():
        raise FileNotFoundError(
            f"{path} has no adapter yet: its training has not finished; the same command resumes it"
        )
    info = read_adapter_info(adapter)
    data = parse_data(_data_section(given, raw))
    split = str(given.get("split", "test"))
    compute = choose_compute(*(str(given.get(key, raw.get(key, "auto"))) for key in ("device", "precision")))
    set_matmul_precision(compute.device, bool(raw.get("tf32", True)))
    join(compute, int(raw.get("distributed", {}).get("timeout_s", Distributed().timeout_s)))
    with rank0_first():
        dataset = data.load(split)
    with warnings.catch_warnings():
        if not compute.is_main:
            warnings.simplefilter("ignore")
        check_classes(info.class_names, info.num_classes, dataset.classes, f"data={data.name}")
    recorded = info.input or {}
    known = {key: recorded[value] for key, value in _RECORDED.items() if value in recorded}
    backbone = raw.get("backbone", {"name": info.backbone_name, **known})
    backbone = parse_backbone({**backbone, **given.get("backbone", {})})
    check_items(backbone, data, dataset)
    with rank0_first():
        model = create_model(backbone, int(raw.get("seed", 0)))
    vp.load_adapter(model, adapter)
    settings = {**input_config(model), **_UNRECORDED, **recorded}
    settings |= {key: given[key] for key in ("views", "crops") if key in given}
    dataset.set_evaluation(settings)
    defaults = {"workers": "auto", "bad_eval": "error"}
    workers, bad = (given.get(key, raw.get(key, default)) for key, default in defaults.items())
    reported = BadFiles(report=lambda words: warnings.warn(words, stacklevel=2))
    batches = create_eval_loader(dataset, compute, workers, str(bad), reported)
    return Evaluation(data, split, evaluate(model.to(compute.device), batches, dataset.classes, compute))


def data_config(overrides: list[str]) -> DataConfig:
    """The data set that ``data=<config> data.<key>=...`` names; ValueError lists everything that is wrong with it."""
    given = _read(overrides, ("data",), ("data",))
    if "data_config" not in given:
        options = ", ".join(sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml")))
        raise ValueError(f"no data set is named: give data=<config> (and data.root=...); there are {options}")
    return parse_data(_data_section(given, {}))


def _read(
    overrides: Sequence[str], values: Sequence[str] = VALUES, sections: Sequence[str] = SECTIONS
) -> dict[str, Any]:
    """The overrides as nested dicts; ConfigError names every one that is not known."""
    given: dict[str, Any] = {}
    problems = []
    for text in overrides:
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
    if problems:
        raise ConfigError(problems)
    return given


def _data_section(given: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    name = given.get("data_config")
    if name is None and "data" not in raw:
        raise ValueError("an adapter folder does not say which data it is for: give data=<config> (and data.root=...)")
    section = dict(raw.get("data", {}))
    if name is not None:
        file = CONFIGS / "data" / f"{name}.yaml"
        options = sorted(path.stem for path in file.parent.glob("*.yaml"))
        if name not in options:
            hint = did_you_mean(name, options)
            raise ValueError(f"data={name}: no such config{hint}; there are {', '.join(options)}")
        section = {"name": name, **_plain(OmegaConf.to_container(OmegaConf.load(file)))}
    return {**section, **given.get("data", {})}


def _plain(raw: Any) -> dict[str, Any]:
    return {str(key): value for key, value in raw.items()}
