"""Evaluate what is in a run folder or an adapter folder, on its own data or on other data."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import vision_peft as vp
from vision_peft.backbones import input_config
from vision_peft.config.data_overrides import fill_data, read_overrides
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config, parse_backbone, parse_config, parse_data
from vision_peft.config.schema import BackboneConfig, Distributed, Settings
from vision_peft.data import DataConfig, ImageDataset
from vision_peft.data.item_names import to_nfc
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.distributed.device import Compute, choose_compute, set_matmul_precision
from vision_peft.distributed.processes import join, on_rank0, rank0_first
from vision_peft.fields import raise_all
from vision_peft.formats import read_adapter_info
from vision_peft.formats.adapter_files import INFO
from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.formats.backbone_record import BACKBONE
from vision_peft.formats.input_record import complete_input
from vision_peft.methods.knn import KNN
from vision_peft.printable import printable, warn
from vision_peft.runs.checkpoint import find_newest_state, read_state
from vision_peft.runs.compare_data import describe_evaluated
from vision_peft.runs.data_record import DataRecord
from vision_peft.runs.run_config import CONFIG, describe_runs_below, read_config
from vision_peft.runs.run_files import check_read_folder
from vision_peft.tasks import find_kind, find_task, learn_task, read_task
from vision_peft.tasks.metrics import Metrics
from vision_peft.training.build import attach_methods, check_items, create_bare_model, create_model
from vision_peft.training.evaluation import create_eval_loader, evaluate
from vision_peft.tuning.head_grid import keep_head, number_of_head, spread_heads

_RECORDED = {"img_size": "size", "num_frames": "num_frames", "tubelet_size": "tubelet_size"}  # backbone key -> input's
_TYPED = ("device", "precision", "workers", "bad_eval")  # settings that may be others than those of the run
_OF_MAKING = ("seed", "num_classes", "unrecorded")  # recorded arguments of a backbone that are of no config
_VIEWS = ("views", "crops")


@dataclass(frozen=True)
class Evaluation:
    """The figures of a split and what they belong to."""

    data: DataConfig
    split: str
    metrics: Metrics


def evaluate_saved(path: str | Path, overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Evaluation:
    """Evaluate the adapter in `path`, a run folder or an adapter folder, as training did.

    Started by torchrun, the processes share the data and all get the figures of the whole.

    Args:
        path: a run folder brings its data, backbone and seed along; an adapter folder only its backbone's name.
        overrides: ``data=<config> data.<key>=... backbone.<key>=... split=test device=... precision=... workers=...
            bad_eval=error|wrong views=... crops=...`` (the last two: of every video).
        config_dir: a folder of configs of your own, for ``data=<config>``.

    Raises:
        FileNotFoundError: nothing to evaluate at `path`.
        ValueError: unknown keys, data with other classes than the adapter, test images that it was trained on, another
            backbone.
    """
    path = Path(path)
    given = read_overrides(overrides, config_dir=config_dir)
    if (path / CONFIG).exists():
        check_read_folder(path)
        adapter, raw = path / "adapter", read_config(path)
    elif path.is_dir():
        adapter, raw = path, {}
    else:
        raise FileNotFoundError(f"{path} is not a folder: wanted a run folder or an adapter folder")
    if raw and not adapter.is_dir():
        raise FileNotFoundError(
            f"{path} has no adapter yet: its training has not finished; the command that started it resumes it"
        )
    if not raw and not (adapter / INFO).exists() and (runs := describe_runs_below(path)):
        raise FileNotFoundError(f"{path} is neither a run folder nor an adapter folder{runs}")
    info = read_adapter_info(adapter)
    section = fill_data(given, raw.get("data", {}))
    data = parse_data(section)
    split = str(given.get("split", "test"))
    config = _parse_recorded(path, {**raw, "data": {"name": data.name, **section}}) if raw else None
    settings = _take_over(config or Settings(), given)
    distributed = config.distributed if config else Distributed()
    compute = choose_compute(settings.device, settings.precision)
    set_matmul_precision(compute.device, settings.tf32)
    join(compute, distributed.timeout_s)
    with rank0_first():
        dataset = data.load(split)
    with warnings.catch_warnings():
        if not compute.is_main:
            warnings.simplefilter("ignore")
        number = info.num_classes if info.task is None else len(info.class_names or ())
        if info.task is None or not find_kind(str(info.task["kind"])).open_set:
            check_kind(info, dataset, f"data={data.name}")
            check_classes(info.class_names, number, dataset.classes, f"data={data.name}")
        own = bool(raw) and not {"data", "data_config"} & given.keys()
        record = DataRecord({split: dataset}, data)
        if words := on_rank0(lambda: describe_evaluated(adapter.parent, record, split, own)):
            warn(words, stacklevel=2)
    recorded = info.input or {}
    known = {key: recorded[value] for key, value in _RECORDED.items() if value in recorded}
    backbone = raw.get("backbone") or {**_list_recorded(info, adapter), **known}
    backbone = parse_backbone({**backbone, **given.get("backbone", {})})
    check_items(backbone, data, dataset)
    views = {key: given[key] for key in _VIEWS if key in given}
    if backbone.num_frames is None and any(value != 1 for value in views.values()):
        words = " ".join(f"{key}={value}" for key, value in views.items())
        raise ValueError(f"{words}: views and crops are of clips, and {path} answers single images: leave them out")
    channels = find_channels(recorded, dataset, f"data={data.name}")
    with rank0_first():
        model = create_model(backbone, settings.seed, dtype=info.backbone.get("quantized"), channels=channels)
    vp.load_adapter(model, adapter)
    dataset.set_evaluation({**complete_input(recorded, input_config(model)), **views})
    reported = BadFiles(report=lambda words: warn(words, stacklevel=2))
    batches = create_eval_loader(dataset, compute, settings.workers, settings.bad_eval, reported)
    task = read_task(info.task, dataset.classes, info.temperature, dataset.targets)
    metrics = evaluate(model.to(compute.device), batches, task, compute)
    return Evaluation(data, split, metrics)


def check_kind(info: AdapterInfo, dataset: ImageDataset, where: str) -> None:
    """Raise ValueError where an adapter answers another kind of task than the labels of a dataset are of."""
    trained, given = (info.task or {"kind": "classes"})["kind"], find_task(dataset).kind
    if trained != given:
        raise ValueError(
            f"the adapter answers a task of {trained}, {where} is one of {given} (data.task_kind says which)"
        )


def check_classes(trained_on: list[str] | None, number: int, given: list[str], where: str) -> None:
    """Refuse data whose classes are not those of an adapter with `number` classes.

    Raises:
        ValueError: another number of classes, or the same names in another order; both sides are named.
    """
    trained_on = trained_on and list(map(to_nfc, trained_on))
    given = list(map(to_nfc, given))
    ours = trained_on or [f"class {index}" for index in range(number)]
    if len(given) != number:
        raise ValueError(
            f"the adapter has {number} classes ({_names(ours)}), {where} has {len(given)} ({_names(given)}): "
            "give the data that it was trained on"
        )
    if trained_on and given != trained_on and sorted(given) == sorted(trained_on):
        raise ValueError(f"{where} has the adapter's classes in another order: {_names(given)} against {_names(ours)}")
    if trained_on and given != trained_on:
        warn(
            f"{where} names its classes {_names(given)}, the adapter was trained on {_names(ours)}: they are taken for "
            "the same, in this order",
            stacklevel=2,
        )


def find_channels(recorded: Mapping[str, Any], dataset: ImageDataset, where: str) -> int | None:
    """Return the channels of the images that an adapter with the input settings `recorded` takes; None: RGB.

    Raises:
        ValueError: the images of `dataset` have others, or values of another type; both sides are named.
    """
    ours, form = recorded.get("channels"), None if dataset.bands is None else dataset.bands.form
    own, given = _channels(ours, recorded.get("dtype")), _channels(form and form.channels, form and form.dtype)
    if own != given:
        raise ValueError(
            f"the adapter takes {own}, {where} has {given}: give data of that kind"
            + (f" (data.channels={ours})" if ours and form is None else "")
        )
    return ours


def _channels(number: int | None, dtype: str | None) -> str:
    if number is None:
        return "RGB images"
    return f"images of {number} channel{'s' * (number > 1)}" + (f" of {dtype}" if dtype else "")


def _names(names: list[str]) -> str:
    return ", ".join(map(printable, names[:12])) + ", ..." * (len(names) > 12)


def _list_recorded(info: AdapterInfo, adapter: Path) -> dict[str, Any]:
    """Return the backbone section of a config for the backbone that an adapter records.

    A recorded checkpoint is opened only where it lies beside the adapter.
    """
    recorded = {key: value for key, value in (info.backbone.get("arguments") or {}).items() if key not in _OF_MAKING}
    if recorded.pop("checkpoint", None) == BACKBONE:
        recorded["checkpoint"] = str(adapter / BACKBONE)
    own = {field.name for field in dataclasses.fields(BackboneConfig)}
    kwargs = {key: value for key, value in recorded.items() if key not in own}
    section = {key: value for key, value in recorded.items() if key in own}
    return {"name": info.backbone_name, **section, "kwargs": kwargs}


def _parse_recorded(path: Path, raw: Mapping[str, Any]) -> Config:
    """Check the whole config of a run before anything in it is used."""
    try:
        return parse_config(raw)
    except ConfigError as error:
        more = f"; and {len(error.problems) - 3} more" if len(error.problems) > 3 else ""
        raise ValueError(f"{path / CONFIG}: {'; '.join(error.problems[:3])}{more}") from None


def _take_over(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """Return the settings of a run, or those by default, with what was typed in their place."""
    raise_all(
        f"{key} must be a whole number from 1; got {given[key]!r}"
        for key in _VIEWS
        if key in given and not (type(given[key]) is int and given[key] >= 1)
    )
    return dataclasses.replace(settings, **{key: given[key] for key in _TYPED if key in given})


def check_saved(config: Config, folder: Path, train_set: ImageDataset, compute: Compute) -> None:
    """Raise RuntimeError unless the state and the adapter in `folder` hold the same, read back.

    k-NN saves no state: of it the adapter is read back.
    """
    loaded = vp.tuned_state_dict(vp.load_adapter(create_bare_model(config), folder / "adapter"))
    if any(isinstance(method, KNN) for method in config.methods):
        return
    path = find_newest_state(folder / "state")
    outputs = learn_task(train_set, config.recipe).outputs
    trained = attach_methods(create_bare_model(config), config, train_set, outputs, compute.holds)
    vp.load_tuned(trained, _keep_best(trained, read_state(path)) if path else {})
    kept = {name: tensor.cpu() for name, tensor in vp.tuned_state_dict(vp.bake(trained)).items()}
    if kept.keys() != loaded.keys() or not all(torch.allclose(kept[name], loaded[name]) for name in kept):
        raise RuntimeError("what was saved is not what was loaded")


def _keep_best(model: Any, entries: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of the best epoch in a state, of several heads those of the chosen one."""
    best, chosen = entries["best"], entries["progress"]["best"]
    if "head" not in (chosen or {}):
        return best
    heads = 1 + max(number for name in best if (number := number_of_head(name)) is not None)
    spread_heads(model, [{}] * heads)
    return keep_head(model, int(chosen["head"]), best)
