"""All knowledge of timm's vision transformers that methods need: blocks, halves, linears, prefix tokens, head.

Written against timm 1.0.31. ``attn_half`` and ``mlp_half`` split a pre-norm block at its seam; their difference to
timm's own forward is exactly 0 for every family, which the tests hold, so that a timm that moves the seam fails there.
"""

from typing import Any

import torch
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.models import beit, eva, swin_transformer, vision_transformer
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, override

FLAT_FAMILIES = (vision_transformer.VisionTransformer, eva.Eva, beit.Beit)
BLOCKS = (vision_transformer.Block, eva.EvaBlock, beit.Block, swin_transformer.SwinTransformerBlock)


def blocks(model: Any) -> list[Any]:
    """Transformer blocks of ``model`` in order of depth (Swin: over all stages).

    Raises:
        ValueError: not a family, or not a kind of block, that methods can attach to.
    """
    if isinstance(model, swin_transformer.SwinTransformer):
        stages: Any = model.layers
        found = [block for stage in stages for block in stage.blocks]
    elif isinstance(model, FLAT_FAMILIES):
        found = list(model.blocks)
    else:
        raise ValueError(
            f"cannot attach to {type(model).__name__}: wanted a timm ViT of class VisionTransformer, Eva, Beit or "
            "SwinTransformer (ViT, DeiT, DINOv2, CLIP, SigLIP, DINOv3, EVA-02, BEiT, Swin)"
        )
    for block in found:
        if not isinstance(block, BLOCKS):
            raise ValueError(
                f"cannot attach to blocks of class {type(block).__name__}: only pre-norm blocks with one attention "
                f"and one MLP can be split ({', '.join(kind.__module__ + '.' + kind.__name__ for kind in BLOCKS)})"
            )
    return found


def width(block: Any) -> int:
    """Channels of the residual stream at ``block`` (they grow over Swin's stages)."""
    return block.attn.proj.out_features


def patch_area(model: Any) -> int:
    """Fan-in of the patch embedding: pixels of one patch (of a tubelet: in all its frames) times channels (RGB where a
    stem stands in its place)."""
    projection = model.patch_embed.proj
    if isinstance(projection, nn.Conv2d | nn.Conv3d):
        return projection.weight[0].numel()
    height, width = model.patch_embed.patch_size
    return 3 * height * width


def attn_half(block: Any, x: Tensor, **kwargs: Any) -> Tensor:
    """First half of a pre-norm block: ``x + drop_path1(scale1(attn(norm1(x))))``; ``x`` is B N C (Swin: B H W C)."""
    match block:
        case vision_transformer.Block():
            return x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **kwargs)))
        case swin_transformer.SwinTransformerBlock():
            return x + block.drop_path1(block._attn(block.norm1(x)))
    y = block.attn(block.norm1(x), **kwargs)
    if block.gamma_1 is not None:
        y = block.gamma_1 * y
    return x + block.drop_path1(y)


def layer_scale_1(block: Any, y: Tensor) -> Tensor:
    """The block's LayerScale of an attention output ``y``, which is ``y`` where it has none."""
    if isinstance(block, vision_transformer.Block):
        return block.ls1(y)
    gamma = None if isinstance(block, swin_transformer.SwinTransformerBlock) else block.gamma_1
    return y if gamma is None else gamma * y


def mlp_half(block: Any, x: Tensor) -> Tensor:
    """Second half of a pre-norm block: ``x + drop_path2(scale2(mlp(norm2(x))))``; ``x`` is B N C (Swin: B H W C)."""
    match block:
        case vision_transformer.Block():
            return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        case swin_transformer.SwinTransformerBlock():
            tokens = x.flatten(1, 2)
            return (tokens + block.drop_path2(block.mlp(block.norm2(tokens)))).view_as(x)
    y = block.mlp(block.norm2(x))
    if block.gamma_2 is not None:
        y = block.gamma_2 * y
    return x + block.drop_path2(y)


class BlockGraft(Graft):
    """A graft on a whole block. Kinds override ``attn_half`` or ``mlp_half`` and call ``super()``, so that any
    number of them adds up on one block, in any order."""

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        return attn_half(self, x, **kwargs)

    def mlp_half(self, x: Tensor) -> Tensor:
        return mlp_half(self, x)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.mlp_half(self.attn_half(x, **kwargs))


def linears(block: Any, target: str) -> list[nn.Linear]:
    """Linear layers that ``target`` names: one of qkv, q, k, v, proj, fc1, fc2.

    On a fused projection ``q``, ``k`` and ``v`` all give the one ``qkv`` layer; where they are separate, ``qkv`` gives
    the three. A SwiGLU has two first layers. A ``qkv`` that timm would bypass is made callable (``qkv_bias_separate``).

    Raises:
        ValueError: an MLP of a class that is not known.
    """
    attn = block.attn
    if target in ("q", "k", "v", "qkv"):
        if is_fused(attn):
            _call_qkv(attn)
            return [attn.qkv]
        return [getattr(attn, f"{letter}_proj") for letter in target]
    if target == "proj":
        return [attn.proj]
    if isinstance(block.mlp, SwiGLU):
        return [block.mlp.fc1_g, block.mlp.fc1_x] if target == "fc1" else [block.mlp.fc2]
    if isinstance(block.mlp, Mlp | GluMlp):
        return [getattr(block.mlp, target)]
    raise ValueError(f"cannot find {target} in an MLP of class {type(block.mlp).__name__}")


def is_fused(attn: Any) -> bool:
    """Whether queries, keys and values come from one ``qkv`` layer."""
    return attn.qkv is not None


def separate_bias(attn: Any) -> Tensor | None:
    """The bias (3 D) that BEiT and EVA keep outside of their fused ``qkv`` layer, None elsewhere."""
    if not isinstance(attn, beit.Attention | eva.EvaAttention) or attn.q_bias is None:
        return None
    parts: list[Any] = [attn.q_bias, attn.k_bias, attn.v_bias]
    return torch.cat(parts)


def _call_qkv(attn: Any) -> None:
    # beit.py and eva.py read qkv.weight without calling the layer, so that a graft on it would be skipped in silence.
    if separate_bias(attn) is not None and not attn.qkv_bias_separate:
        override(attn, qkv_bias_separate=True)


def classifier_names(model: Any) -> tuple[str, ...]:
    """Names of the classification layers; two for a distilled model."""
    if isinstance(model, VisionTransformerDistilled):
        return "head", "head_dist"
    return ("head.fc",) if isinstance(model, swin_transformer.SwinTransformer) else ("head",)


def reads_class_token_only(model: Any) -> bool:
    """Whether the head sees nothing of the last block's output but the class (and distillation) token."""
    return isinstance(model, FLAT_FAMILIES) and model.global_pool == "token"


def architecture(model: Any) -> dict[str, Any]:
    """What tells two backbones apart at a glance: class, depth, widths, heads, patch and image size (pixels); of clips
    also the frames of a clip and of a patch (None: frame by frame), and whether their mean is taken before the norm."""
    all_blocks = blocks(model)
    embed = model.patch_embed
    clip = {key: getattr(embed, key, None) for key in ("num_frames", "tubelet_size")}  # timm's own have neither
    return {
        "class": _plain_class(model),
        "depth": len(all_blocks),
        "width": sorted({width(block) for block in all_blocks}),
        "num_heads": sorted({block.attn.num_heads for block in all_blocks}),
        "patch_size": list(embed.patch_size),
        "img_size": list(embed.img_size or ()),
        **(clip if clip["num_frames"] is not None else {}),
        **({"mean_first": True} if getattr(embed, "mean_first", False) else {}),
    }


def frames_in_batch(model: Any) -> int:
    """Frames of a clip that the patch embedding folds into the batch of the blocks; 1 for images and for tubelets."""
    clip = architecture(model)
    return 1 if clip.get("tubelet_size") is not None else clip.get("num_frames", 1)


def trained_with_methods(model: Any) -> list[nn.Parameter]:
    """Parameters of the backbone that train with every method which lets features change: its patch embedding lists
    them by name (a tubelet embedding its ``temporal_embed``), timm's own list none."""
    names: tuple[str, ...] = getattr(model.patch_embed, "trained_with_methods", ())
    return [getattr(model.patch_embed, name) for name in names]


def _plain_class(model: nn.Module) -> str:
    return next(cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("timm."))
