"""Tiny models of the families whose blocks pool and widen their tokens, or attend in windows of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

_SAM2: dict[str, Any] = {"stages": (1, 1, 1, 1), "window_spec": (4, 4, 3, 2), "global_att_blocks": ()}
_MAXVIT: dict[str, Any] = {"img_size": 64, "depths": (1, 1), "embed_dim": (16, 32), "stem_width": 8, "num_classes": 5}


def _mvitv2(**settings: Any) -> nn.Module:
    strides: Any = ((1, 1), (2, 2))
    config = MultiScaleVitCfg(
        embed_dim=(16, 32), depths=(1, 1), num_heads=(1, 2), stride_q=strides, kernel_qkv=(3, 3), **settings
    )
    return MultiScaleVit(config, img_size=(64, 64), num_classes=5, global_pool="avg")


# Name -> how to make it, and what is true of it: see ``support.families.TinyFamily``.
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "sam": (
        partial(
            timm.create_model,
            "samvit_base_patch16",
            img_size=64,
            patch_size=8,
            embed_dim=16,
            depth=2,
            num_heads=2,
            neck_chans=8,
            window_size=3,
            global_attn_indexes=(1,),
            num_classes=5,
        ),
        {"stages": (2,), "final_norm": "neck.3", "extra_norms": 1},
    ),
    "hiera": (
        partial(
            timm.create_model,
            "hiera_tiny_224",
            img_size=64,
            embed_dim=16,
            num_heads=1,
            stages=(1, 1, 1, 1),
            num_classes=5,
        ),
        {"stages": (1, 1, 1, 1), "final_norm": "head.norm", "extra_norms": 4},
    ),
    "hiera_pooled": (
        partial(
            timm.create_model,
            "hiera_small_abswin_256",
            img_size=64,
            embed_dim=16,
            num_heads=1,
            stages=(1, 1, 1, 1),
            num_classes=5,
            use_expand_proj=False,
        ),
        {"stages": (1, 1, 1, 1), "final_norm": "head.norm", "extra_norms": 4},
    ),
    "sam2": (
        partial(timm.create_model, "sam2_hiera_tiny", **_SAM2, embed_dim=16, num_heads=1, num_classes=5),
        {"stages": (1, 1, 1, 1), "final_norm": "head.norm", "extra_norms": 4},
    ),
    "sam2_global": (
        partial(
            timm.create_model,
            "sam2_hiera_tiny",
            **{**_SAM2, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)},
            embed_dim=16,
            num_heads=1,
            num_classes=5,
        ),
        {"stages": (1, 1, 2, 1), "final_norm": "head.norm", "extra_norms": 6},
    ),
    "mvitv2": (_mvitv2, {"stages": (1, 1), "extra_norms": 6}),
    "mvitv2_class_token": (partial(_mvitv2, use_cls_token=True), {"stages": (1, 1), "extra_norms": 6}),
    "maxvit": (
        partial(timm.create_model, "test_maxvit", **_MAXVIT, transformer_dim_head=8),
        {"stages": (2, 2), "extra_norms": 11},
    ),
    "maxvit_tf": (
        partial(timm.create_model, "maxvit_tiny_tf_224", **_MAXVIT, transformer_dim_head=8, head_hidden_size=32),
        {"stages": (2, 2), "final_norm": "head.norm", "extra_norms": 11},
    ),
}
