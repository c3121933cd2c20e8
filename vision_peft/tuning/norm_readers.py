"""Which linear layers read the output of a block's norms: what a map of that output folds into."""

from typing import Any

from timm.layers import Attention, AttentionRope
from timm.models import beit, eva, swin_transformer
from torch import Tensor, nn

from vision_peft.tuning.timm_blocks import is_fused, linears


def norm_readers(block: Any, site: str) -> list[nn.Linear]:
    """Linear layers that read ``norm1`` (``site="attn"``) or ``norm2`` (``site="mlp"``) of ``block``."""
    if site == "mlp":
        return linears(block, "fc1")
    names = ("qkv",) if is_fused(block.attn) else ("q", "k", "v")
    readers: list[Any] = [layer for name in names for layer in linears(block, name)]
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
        raise ValueError("a shift in front of a Linear without a bias has nowhere to go")


def pads_windows(block: Any) -> bool:
    """Whether ``block`` fills its windows up with zeros between norm1 and attention (Swin at uneven sizes)."""
    if not isinstance(block, swin_transformer.SwinTransformerBlock):
        return False
    sizes: Any = block.input_resolution
    return any(size % window for size, window in zip(sizes, block.window_size, strict=True))
