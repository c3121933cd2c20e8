"""Tiny models of every timm family that methods attach to, with weights that leave no term at zero."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from support.hierarchical_models import MODELS
from timm.layers import DropPath
from timm.models.vitamin import VitCfg
from torch import Tensor, nn

from vision_peft.backbones import create_backbone

_TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
_WINDOWED: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "num_classes": 5}
_CR_BIAS = ("rel_pos.mlp.fc2.bias",)  # the same for all scores of a query
_CLIP: dict[str, Any] = {"num_frames": 4, "img_size": 16, "patch_size": 8}
_EVA = {**_TINY, "img_size": 28, "patch_size": 14, "mlp_ratio": 2}


def _make(name: str, **arguments: Any) -> nn.Module:
    return timm.create_model(name, **{**_TINY, "img_size": 32, "patch_size": 8, **arguments})


@dataclass(frozen=True)
class TinyFamily:
    """How to make a tiny model, and what is true of it. Of ``windowed`` ones, two stages of two blocks."""

    make: Callable[[], nn.Module]
    stages: tuple[int, ...] = ()  # number of blocks in each stage of a hierarchical model, of others nothing
    windowed: bool = False  # tokens are maps in windows, not one sequence
    bypassed: bool = False  # timm reads qkv.weight there without calling qkv
    final_norm: str = "norm"  # name of the norm behind the last block
    keys_values: bool = True  # attention averages values of tokens
    extra_norms: int = 0  # with parameters, beside those that every flat (or every windowed) model has
    felt_by_rounding: tuple[str, ...] = ()  # how the names of parameters end that no output depends on but by rounding


FAMILIES: dict[str, TinyFamily] = {
    "vit": TinyFamily(partial(_make, "vit_tiny_patch16_224")),
    "vit_avg": TinyFamily(partial(_make, "vit_tiny_patch16_224", global_pool="avg"), final_norm="fc_norm"),
    "deit3": TinyFamily(partial(_make, "deit3_small_patch16_224")),
    "deit_distilled": TinyFamily(partial(_make, "deit_tiny_distilled_patch16_224")),
    "dinov2_reg4": TinyFamily(partial(_make, "vit_small_patch14_reg4_dinov2", img_size=28, patch_size=14)),
    "dinov2_swiglu": TinyFamily(partial(_make, "vit_giant_patch14_dinov2", img_size=28, patch_size=14)),
    "clip": TinyFamily(partial(_make, "vit_base_patch16_clip_224"), extra_norms=1),  # norm_pre
    "siglip": TinyFamily(partial(_make, "vit_base_patch16_siglip_224"), extra_norms=1),  # of attention pooling
    "dinov3": TinyFamily(partial(_make, "vit_small_patch16_dinov3")),
    "dinov3_qkvb": TinyFamily(partial(_make, "vit_small_patch16_dinov3_qkvb"), bypassed=True),
    "eva02_tiny": TinyFamily(partial(_make, "eva02_tiny_patch14_224", **_EVA), bypassed=True, final_norm="fc_norm"),
    "eva02_base": TinyFamily(  # extra norms: of its two SwiGLU
        partial(_make, "eva02_base_patch14_224", **_EVA), final_norm="fc_norm", extra_norms=2
    ),
    "rope_gqa": TinyFamily(
        partial(_make, "eva02_base_patch14_224", **_EVA, attn_type="rope", num_kv_heads=1),
        final_norm="fc_norm",
        extra_norms=2,
    ),
    "beit": TinyFamily(partial(_make, "beit_base_patch16_224"), bypassed=True, final_norm="fc_norm"),
    "beit_shared_bias": TinyFamily(
        partial(
            _make, "beit_base_patch16_224", use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_abs_pos_emb=True
        ),
        bypassed=True,
        final_norm="fc_norm",
    ),
    "tubelet": TinyFamily(
        partial(create_backbone, "vit_tiny_patch16_224", **_TINY, **_CLIP, tubelet_size=2), final_norm="fc_norm"
    ),
    "frames": TinyFamily(partial(create_backbone, "vit_tiny_patch16_224", **_TINY, **_CLIP)),
    "swin": TinyFamily(
        partial(timm.create_model, "swin_tiny_patch4_window7_224", img_size=56, **_WINDOWED), windowed=True
    ),
    "swin_v2": TinyFamily(
        partial(timm.create_model, "swinv2_tiny_window8_256", img_size=64, **_WINDOWED), windowed=True, bypassed=True
    ),
    "swin_v2_cr": TinyFamily(
        partial(timm.create_model, "swinv2_cr_tiny_ns_224", img_size=56, window_size=7, **_WINDOWED),
        windowed=True,
        final_norm="stages.1.blocks.1.norm3",
        extra_norms=1,  # at the end of the first stage
        felt_by_rounding=("meta_mlp.fc2.bias",),  # the same for all scores of a query: softmax takes it out
    ),
}

# Families whose blocks pool and widen, or attend in windows of their own.
HIERARCHICAL = {name: TinyFamily(make, **facts) for name, (make, facts) in MODELS.items()}

# Families whose blocks or models name their parts otherwise, for what is tested of every family alike.
MORE: dict[str, TinyFamily] = {
    "vit_res_post": TinyFamily(partial(_make, "vit_base_patch16_rpn_224"), final_norm="fc_norm"),
    "vitamin": TinyFamily(
        partial(
            _make, "vitamin_small_224", patch_size=1, embed_cfg=VitCfg((8, 16, 32), depths=(1, 1, 1), stem_width=8)
        ),
        final_norm="fc_norm",
        extra_norms=6,  # of its stem and of its two MLPs
    ),
    "hybrid": TinyFamily(partial(_make, "vit_tiny_r_s16_p8_224", img_size=64), extra_norms=1),  # of its stem
    "relpos": TinyFamily(partial(_make, "vit_relpos_base_patch16_clsgap_224"), final_norm="fc_norm"),
    "relpos_shared": TinyFamily(partial(_make, "vit_srelpos_small_patch16_224"), felt_by_rounding=_CR_BIAS),
    "relpos_post": TinyFamily(partial(_make, "vit_relpos_base_patch16_rpn_224"), felt_by_rounding=_CR_BIAS),
    "eva_post_norm": TinyFamily(
        partial(_make, "eva02_enormous_patch14_clip_224", img_size=28, patch_size=14, mlp_ratio=2), bypassed=True
    ),
    "vit_parallel": TinyFamily(partial(_make, "vit_base_patch16_18x2_224"), extra_norms=4),
    "cait": TinyFamily(partial(_make, "cait_xxs24_224", depth_token_only=1), extra_norms=2),
    "xcit": TinyFamily(  # extra norms: norm3 and a BatchNorm in each block, of the class token's block, of the stem
        partial(_make, "xcit_nano_12_p16_224", cls_attn_layers=1), extra_norms=4 + 2 + 3, keys_values=False
    ),
    "naflexvit": TinyFamily(partial(timm.create_model, "naflexvit_base_patch16_gap", **_TINY), final_norm="fc_norm"),
    "naflexvit_rope": TinyFamily(
        partial(timm.create_model, "naflexvit_base_patch16_siglip", **_TINY, rope_type="axial", reg_tokens=2),
        extra_norms=1,
    ),
}

# Models without transformer blocks, for the methods that need none.
OTHERS: dict[str, TinyFamily] = {
    "convnext": TinyFamily(
        partial(timm.create_model, "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=5)
    ),
    "resnet": TinyFamily(
        partial(timm.create_model, "resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=5)
    ),
    "efficientnet": TinyFamily(partial(timm.create_model, "test_efficientnet", num_classes=5)),
}

WITH_BLOCKS = {**FAMILIES, **MORE, **HIERARCHICAL}
ALL = {**WITH_BLOCKS, **OTHERS}

KEYS_VALUES = [name for name, family in {**FAMILIES, **MORE}.items() if family.keys_values]
FLAT = [name for name, family in FAMILIES.items() if not family.windowed]
WINDOWED = [name for name, family in FAMILIES.items() if family.windowed]
BYPASSED = [name for name, family in WITH_BLOCKS.items() if family.bypassed]


def tiny(family: str, seed: int = 0) -> Any:
    """A model of ``family`` in eval mode; every parameter is random, so that biases and scales are felt."""
    torch.manual_seed(seed)
    model = ALL[family].make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            is_scale = (
                (re.search(r"norm|bn\d|downsample\.1", name) and name.endswith("weight"))
                or "gamma" in name
                or ".ls" in name
            )
            parameter.copy_(1 + 0.1 * noise if is_scale else noise * (0.2 if parameter.ndim > 1 else 0.1))
    return model.eval()


def with_drop_paths(model: Any, rate: float = 0.5) -> Any:
    """``model`` with drop-paths of this rate in all blocks."""
    from vision_peft.tuning.blocks import blocks, branches

    for block in blocks(model):
        paths = {branch.drop_path for half in ("attn", "mlp") for branch in branches(block, half)}
        for name in [name for name, module in block.named_modules() if module in paths]:
            block.set_submodule(name, DropPath(rate))
    return model


def images(model: Any, batch: int = 2, seed: int = 1) -> Tensor:
    """A random batch (B C H W, of clips B C T H W) that fits ``model``."""
    embed = getattr(model, "patch_embed", None)
    frames, size = getattr(embed, "num_frames", None), getattr(embed, "img_size", None) or (64, 64)
    size = size if frames is None else (frames, *size)
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def four_sizes(x: Tensor) -> Tensor:
    """``x`` as timm's ``forward_intermediates`` takes it: clips (B C T H W) are folded to (B C·T H W)."""
    return x.flatten(1, 2) if x.ndim == 5 else x


def attach(model: Any, method: Any) -> Any:
    """``vp.attach``, with samples where the method needs some."""
    import vision_peft as vp

    samples = None
    if method.samples_needed is not None:
        samples = [(images(model, batch=4, seed=seed), torch.tensor([0, 1, 0, 1])) for seed in (5, 6)]
    return vp.attach(model, method, samples=samples)


def tuned(family: str, *methods: Any) -> Any:
    """A tiny model of a family with methods attached and random values in every tuned tensor, in eval mode."""
    model = tiny(family)
    for method in methods:
        attach(model, method)
    randomise_tuned(model)
    return model.eval()


def randomise_tuned(model: nn.Module, seed: int = 2) -> None:
    """Give every tuned tensor a random value, so that zero-initialised factors pass gradients on."""
    import vision_peft as vp

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in vp.tuned_parameters(model):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
