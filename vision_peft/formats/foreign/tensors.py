"""Taking the tensors of a foreign file: shapes checked, keys accounted for, separate projections fused."""

import re

import torch
from torch import Tensor

from vision_peft.printable import name_some, printable

State = dict[str, Tensor]


def split_head(state: State) -> tuple[State, str]:
    """Head tensors of ``state`` under our names, and the kind of head: ``head.*`` or BatchNorm at 0 and Linear at 1."""
    head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    if "head.1.weight" not in head:
        return head, "linear"
    head.setdefault("head.0.num_batches_tracked", torch.tensor(0))
    return head, "batchnorm_linear"


def fuse_qkv(state: State, prefix: str, parts: tuple[str, str, str], to: str) -> State:
    """Concatenate separate query, key and value layers into timm's fused ``qkv``; ``state`` loses the parts."""
    return {
        f"{to}.{kind}": torch.cat([state.pop(f"{prefix}{part}.{kind}") for part in parts])
        for kind in ("weight", "bias")
    }


def fuse_video_qkv(state: State, attn: str) -> State:
    """timm's ``qkv`` out of VideoMAE's attention, whose keys have no bias; ``state`` loses the parts.

    Weights are one ``qkv`` (VideoMAE) or three projections (AdaptFormer's copy), biases ``q_bias`` and ``v_bias``.
    """
    weight = state.pop(f"{attn}qkv.weight", None)
    if weight is None:
        weight = torch.cat([state.pop(f"{attn}{part}_proj.weight") for part in "qkv"])
    q, v = state.pop(f"{attn}q_bias"), state.pop(f"{attn}v_bias")
    return {f"{attn}qkv.weight": weight, f"{attn}qkv.bias": torch.cat([q, torch.zeros_like(q), v])}


def take(state: State, name: str, *shape: int | None) -> Tensor:
    """Pop a tensor and check its shape, in which None stands for any size above 0.

    Raises:
        ValueError: another shape; shows both.
    """
    tensor = state.pop(name)
    fits = len(tensor.shape) == len(shape) and all(
        size > 0 and wanted in (None, size) for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"shape of {name}: wanted ({sizes}), got {tuple(tensor.shape)}")
    return tensor


def block_numbers(state: State, prefix: str) -> range:
    """Numbers of the blocks under ``prefix``, checked to be 0 to L - 1.

    Raises:
        ValueError: there are none, or some are missing.
    """
    numbers = {block_number(name, prefix) for name in state if name.startswith(prefix)}
    if not numbers or numbers != set(range(len(numbers))):
        raise ValueError(f"wanted blocks {prefix}0, {prefix}1, ... without gaps, got {name_some(sorted(numbers))}")
    return range(len(numbers))


def block_number(name: str, prefix: str) -> int:
    """Read the number of a block behind ``prefix``; ValueError where there is none."""
    number = name.removeprefix(prefix).split(".")[0]
    if not re.fullmatch(r"[0-9]{1,6}", number):
        raise ValueError(f"wanted the number of a block behind {prefix}, got {printable(name)}")
    return int(number)


def no_leftovers(state: State, source: str) -> None:
    """Raise ValueError where keys are left that ``source`` does not explain."""
    if state:
        raise ValueError(f"not a {source} file: cannot explain {name_some(sorted(state), 8)}")
