"""Stages, between which Swin's tokens grow fewer and wider, and narrow modules of the same kind beside a backbone's."""

from typing import Any

from timm.models import swin_transformer, vision_transformer
from torch import nn

from vision_peft.tuning.timm_blocks import blocks


def stages(model: Any) -> list[list[Any]]:
    """Blocks of ``model`` by stage, in order of depth: Swin has several stages, every other family one.

    Raises:
        ValueError: not a family that methods can attach to.
    """
    found = blocks(model)
    if isinstance(model, swin_transformer.SwinTransformer):
        layers: Any = model.layers
        return [list(stage.blocks) for stage in layers]
    return [found]


def token_mergings(model: Any) -> list[Any]:
    """The modules between the stages of ``model``, in order: each reads what the stage before it gives (B H W D)."""
    if not isinstance(model, swin_transformer.SwinTransformer):
        return []
    layers: Any = model.layers
    return [stage.downsample for stage in layers if isinstance(stage.downsample, swin_transformer.PatchMerging)]


def side_block(block: Any, dim: int) -> nn.Module:
    """A fresh pre-norm block of width ``dim`` for the tokens of ``block``: as many heads, 4 dim hidden channels.

    Beside Swin's it attends in the same windows (of maps B H W dim), shifted alike, with position biases of its own,
    and takes maps of any size; elsewhere (B N dim) it has plain global attention.
    """
    heads = block.attn.num_heads
    if not isinstance(block, swin_transformer.SwinTransformerBlock):
        return vision_transformer.Block(dim, heads, mlp_ratio=4, qkv_bias=True)
    return swin_transformer.SwinTransformerBlock(
        dim,
        block.input_resolution,
        heads,
        window_size=block.window_size,
        shift_size=block.shift_size,  # type: ignore[arg-type]  # timm takes a pair too
        always_partition=True,  # else the two are worked out again from the resolution
        dynamic_mask=True,
        mlp_ratio=4,
        qkv_bias=True,
    )


def side_merging(dim: int, out_dim: int) -> nn.Module:
    """A fresh linear map of the 2 x 2 neighbours of a map (B H W dim), side by side, to (B ⌈H/2⌉ ⌈W/2⌉ out_dim).

    Swin's own (timm's PatchMerging, which fills odd sides up with zeros) without the norm in front; no bias.
    """
    return swin_transformer.PatchMerging(dim, out_dim, norm_layer=nn.Identity)
