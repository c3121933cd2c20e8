"""Hiera: timm's ``hiera.py``, tokens in the order of nested windows (B N C), attention within a window or over all.

The first block of a stage pools its queries over neighbours and doubles the width, in its attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.hiera import Hiera as HieraModel
from timm.models.hiera import HieraBlock, MaskUnitAttention
from torch import Tensor, nn

from vision_peft.tuning.families.hierarchical import HierarchicalFamily, cut_at


class Hiera(HierarchicalFamily):
    """Pre-norm blocks; attention has no positions of its own. The norm behind the blocks is the head's."""

    examples = "Hiera"
    model_classes = (HieraModel,)
    block_classes = (HieraBlock,)
    attention_classes = (MaskUnitAttention,)
    has_grid = False
    norms_maps = False

    def stages(self, model: Any) -> list[list[Any]]:
        return cut_at(model.blocks, model.stage_ends)

    def final_norms(self, model: Any) -> list[nn.Module]:
        return [model.head.norm]

    def heads(self, block: Any) -> int:
        return block.attn.heads

    def input_width(self, block: Any) -> int:
        return block.dim

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        y = block.norm1(x)
        if block.do_expand:
            groups = (x.shape[0], block.attn.q_stride, -1)
            if block.proj is not None:
                x = block.proj(y)
                x = x.view(*groups, x.shape[-1]).amax(dim=1)
            else:
                neighbours = x.view(*groups, x.shape[-1])
                x = torch.cat([neighbours.amax(dim=1), neighbours.mean(dim=1)], dim=-1)
        return x + block.drop_path1(block.ls1(block.attn(y)))

    def key_value_heads(self, attn: Any) -> tuple[int, int]:
        return attn.heads, attn.head_dim

    def attend(self, attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> Any:
        B, N, _ = x.shape
        windows = N // (attn.q_stride * attn.window_size) if attn.use_mask_unit_attn else 1
        q, k, v = (t.unflatten(2, (-1, windows)).transpose(2, 3) for t in self.project(attn, x))  # B heads W N/W C
        if attn.q_stride > 1:
            q = q.unflatten(3, (attn.q_stride, -1)).amax(dim=3)
        ahead = [[part.unsqueeze(2).expand(B, -1, windows, -1, -1).type_as(k) for part in pair] for pair in extra]
        k = torch.cat([*(keys for keys, _ in ahead), k], dim=3)
        v = torch.cat([*(values for _, values in ahead), v], dim=3)
        y = F.scaled_dot_product_attention(q, k, v)
        return attn.proj(y.transpose(1, 3).reshape(B, -1, attn.dim_out))
