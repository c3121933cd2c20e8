"""Which linear layers read the output of a block's norms: what a map of that output folds into."""

from typing import Any

from timm.layers import Attention, AttentionRope
from timm.models import eva, swin_transformer
from torch import nn

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


def pads_windows(block: Any) -> bool:
    """Whether ``block`` fills its windows up with zeros between norm1 and attention (Swin at uneven sizes)."""
    if not isinstance(block, swin_transformer.SwinTransformerBlock):
        return False
    sizes: Any = block.input_resolution
    return any(size % window for size, window in zip(sizes, block.window_size, strict=True))
