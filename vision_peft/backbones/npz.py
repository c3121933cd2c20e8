"""Google's JAX checkpoints (``.npz``) of ViT, AugReg and big_vision, through timm's own loader.

timm copies what it knows and says nothing about the rest; here parameters that stay unset and arrays that nobody
reads are errors. numpy reads without pickle, so a file never runs code.
"""

import contextlib
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vision_peft.backbones.sources import Source
from vision_peft.printable import name_some, printable

PREFIXES = ("opt/target/", "params/img/", "params/")
IN_BLOCK = (
    r"(LayerNorm_\d|MlpBlock_\d/Dense_[01]|MultiHeadDotProductAttention_\d/(query|key|value|out))/(scale|kernel|bias)$"
)
MAX_RATIO = 20  # of the arrays to their file; trained weights hardly shrink
UNUSED = r"pre_logits/"  # the representation layer of the 21k models, which timm's models do not have


def head_classes(path: Path) -> int:
    """Read the number of classes of the head in the file, 0 if it has none.

    Raises:
        ValueError: damaged, or arrays that are not as large as the file says.
    """
    with _open(path) as arrays, _damage(path):
        bias = f"{_prefix(arrays)}head/bias"
        return arrays[bias].shape[-1] if bias in arrays else 0


def load(model: nn.Module, path: Path) -> Source:
    """Load the file into ``model``, strictly; positions and patches are resampled by timm.

    Returns:
        The account of the file; its ``state`` holds the positions alone, since timm reads the file itself.

    Raises:
        ValueError: damaged or of another layout, parameters that the file does not set, arrays that nobody reads.
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"timm has no .npz loader for {type(model).__name__}; convert {path} to .safetensors first.")
    with _open(path) as arrays, _damage(path):
        unread = _unread(arrays, model)
        source = _account(arrays)
    if unread:
        raise ValueError(f"{path} holds what the model has no place for: {name_some(unread)}.")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)  # timm copies in place: what is still NaN afterwards was not in the file
    with _damage(path):
        model.load_pretrained(str(path))
    unset = [name for name, parameter in model.named_parameters() if parameter.isnan().all()]
    if unset == ["fc_norm.weight", "fc_norm.bias"]:  # timm then passes over encoder_norm
        nn.init.ones_(model.get_parameter("fc_norm.weight"))
        nn.init.zeros_(model.get_parameter("fc_norm.bias"))
        source.start_fc_norm("Transformer/encoder_norm", 2)
    elif unset:
        raise ValueError(f"{path} does not hold these parameters of the model: {name_some(unset)}.")
    return source


def _account(arrays: NpzFile) -> Source:
    prefix = _prefix(arrays)
    names = (f"{prefix}Transformer/posembed_input/pos_embedding", f"{prefix}pos_embedding")
    positions = [torch.from_numpy(arrays[name]) for name in names if name in arrays]
    state = {"pos_embed": positions[0]} if positions else {}
    source = Source("Google's JAX names (ViT, AugReg, big_vision)", state, total=len(arrays.files))
    outside = [name for name in arrays.files if not name.startswith(prefix)]
    if outside:
        source.drop(f"outside {prefix}", len(outside), "not the image tower")
    unused = [name for name in arrays.files if re.match(UNUSED, name.removeprefix(prefix))]
    if unused:
        source.drop("pre_logits", len(unused), "timm's models have no representation layer")
    return source


def _open(path: Path) -> NpzFile:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no archive")
        _check_members(path)
        arrays = np.load(path, allow_pickle=False)
    except _Refused as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # damaged archives raise whatever zipfile, zlib and numpy stumble over
        raise ValueError(f"{path} is truncated or not an .npz file.") from error
    return arrays


class _Refused(ValueError):
    """What is wrong with an archive, without its name."""


def _check_members(path: Path) -> None:
    """Read the header of every array: what it says must be there, and packed no better than weights are."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_RATIO * path.stat().st_size + 10**6:
            raise _Refused(f"unpacks to {unpacked:,} bytes, more than {MAX_RATIO} times its size: no trained weights")
        for member in archive.infolist():
            with archive.open(member) as file:
                shape, dtype = _read_header(file)
                if dtype.hasobject:
                    raise _Refused(f"holds objects as {printable(member.filename)} (allow_pickle=False)")
                if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    raise _Refused(f"claims {printable(member.filename)} of shape {shape}, which is not what it holds")


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type of an array, and go to its first byte."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(file)
    return shape, dtype


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what numpy, zipfile and timm raise inside into one line."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} lacks an array that the model needs: {error.args[0]}") from error
    except Exception as error:
        reason = printable(" ".join(str(error).split()) or type(error).__name__)
        raise ValueError(f"{path} is damaged or does not fit the model: {reason}") from error


def _prefix(arrays: NpzFile) -> str:
    return next((prefix for prefix in PREFIXES if f"{prefix}embedding/kernel" in arrays), "")


def _unread(arrays: NpzFile, model: VisionTransformer) -> list[str]:
    """Names below the file's prefix that timm's loader does not read for this model."""
    prefix, depth = _prefix(arrays), len(model.blocks)
    known = [r"embedding/(kernel|bias)$", r"Transformer/(encoder_norm|posembed_input)/", r"head/(kernel|bias)$", UNUSED]
    known += [r"pos_embedding$", rf"Transformer/encoderblock/{IN_BLOCK}"]
    known += [rf"Transformer/encoderblock_{index}/{IN_BLOCK}" for index in range(depth)]
    if model.cls_token is not None:
        known.append(r"cls$")
    if model.attn_pool is not None:
        known.append(r"MAPHead_0/")
    if isinstance(model.patch_embed, HybridEmbed):
        known.append(r"(conv_root|gn_root|block\d+)/")
    pattern = re.compile("|".join(known))
    names = [name.removeprefix(prefix) for name in arrays.files if name.startswith(prefix)]
    unread = [name for name in names if not pattern.match(name)]
    stacked = f"{prefix}Transformer/encoderblock/LayerNorm_0/scale"  # big_vision keeps all blocks in one array
    if stacked in arrays and arrays[stacked].shape[0] != depth:
        unread.append(f"Transformer/encoderblock with {arrays[stacked].shape[0]} blocks (the model has {depth})")
    return unread
