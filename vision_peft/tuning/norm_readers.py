"""What a map of the output of a block's norms folds into: the linear layers that read it, or the norm itself."""

from typing import Any

from timm.layers import Attention, AttentionRope, RmsNorm
from timm.models import beit, eva, swin_transformer
from torch import Tensor, nn

from vision_peft.tuning.timm_blocks import linears


def norm_readers(block: Any, site: str) -> list[nn.Linear]:
    """Linear layers that read ``norm1`` (``site="attn"``) or ``norm2`` (``site="mlp"``) of ``block``."""
    if site == "mlp":
        return linears(block, "fc1")
    readers: list[Any] = linears(block, "qkv")
    gated = isinstance(block.attn, Attention | AttentionRope | eva.EvaAttention) and block.attn.gate is not None
    if gated:
        readers.append(block.attn.gate)
    return readers


def add_to_output(block: Any, reader: nn.Linear, shift: Tensor) -> None:
    """Add the constant ``shift`` (out) to the output of a layer of ``norm_readers``, for good.

    It joins the bias. BEiT's fused layer has q_bias and v_bias beside it and none for its keys, which need none: a
    constant on every key adds the same number to all scores of a query, and softmax takes it out, with a position bias
    too. (Not so where keys are rotated, in EVA: every position would turn the constant another way.)

    Raises:
        ValueError: there is no such bias.
    """
    attn: Any = block.attn
    bias: Tensor | None = reader.bias
    if bias is not None:
        bias.add_(shift)
    elif isinstance(attn, beit.Attention) and reader is attn.qkv and attn.q_bias is not None:
        q, _, v = shift.chunk(3)
        attn.q_bias.add_(q)
        attn.v_bias.add_(v)
    else:
        raise ValueError("a shift at a Linear without a bias has nowhere to go")


def takes_shift(block: Any, reader: nn.Linear) -> bool:
    """Whether ``add_to_output`` finds a bias for this layer."""
    attn: Any = block.attn
    beside = isinstance(attn, beit.Attention) and reader is attn.qkv and attn.q_bias is not None
    return reader.bias is not None or beside


def add_to_norm(norm: Any, shift: Tensor) -> None:
    """Add the constant ``shift`` (C) to the output of a norm, for good.

    Raises:
        ValueError: the norm has no bias.
    """
    if isinstance(norm, RmsNorm) or norm.bias is None:
        raise ValueError("a shift between a norm and a Linear, both without a bias, has nowhere to go")
    norm.bias.add_(shift)


def pads_windows(block: Any) -> bool:
    """Whether ``block`` fills its windows up with zeros between norm1 and attention (Swin at uneven sizes)."""
    if not isinstance(block, swin_transformer.SwinTransformerBlock):
        return False
    sizes: Any = block.input_resolution
    return any(size % window for size, window in zip(sizes, block.window_size, strict=True))
