"""Swin v2: timm's ``swin_transformer_v2.py``, norms behind attention and MLP, attention by cosines.

A small MLP makes the position biases from log-spaced offsets. timm reads ``qkv.weight`` without calling the layer where
queries and values have a bias, which is kept outside of it; keys have none, and one on every key would change cosines.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer_v2 import PatchMerging, SwinTransformerV2, SwinTransformerV2Block, WindowAttention
from torch import Tensor

from vision_peft.tuning.families.attention_family import cat_biases
from vision_peft.tuning.families.windowed import WindowedFamily


class SwinV2(WindowedFamily):
    """Patch merging stands in front of every stage but the first, with a norm behind it."""

    examples = "Swin v2"
    model_classes = (SwinTransformerV2,)
    block_classes = (SwinTransformerV2Block,)
    attention_classes = (WindowAttention,)
    merging_classes = (PatchMerging,)
    has_input_norms = False
    bias_without_position = 8.0  # 16 σ(0), in the middle of all biases: at 0 such keys would hardly be seen

    def separate_bias(self, attn: Any) -> Tensor | None:
        return None if attn.q_bias is None else cat_biases(attn)

    def scale_scores(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        scale = attn.logit_scale.clamp(max=math.log(100)).exp()
        return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), 1.0

    def attention_bias(self, attn: Any, q: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        table = attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads)
        bias = 16 * torch.sigmoid(table[attn.relative_position_index].permute(2, 0, 1))
        return self.with_mask(bias.unsqueeze(0), q, mask)
