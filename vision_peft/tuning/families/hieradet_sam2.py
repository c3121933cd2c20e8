"""The image encoder of SAM 2: timm's ``hieradet_sam2.py``, tokens are maps (B H W C), most blocks attend in windows.

The first block of a stage pools its queries, and so the map, and doubles the width, in its attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.hieradet_sam2 import (
    HieraDet,
    MultiScaleAttention,
    MultiScaleBlock,
    _calc_pad,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn

from vision_peft.tuning.families.hierarchical import HierarchicalFamily, cut_at


class Sam2(HierarchicalFamily):
    """Pre-norm blocks; attention has no positions of its own. The norm behind the blocks is the head's."""

    examples = "SAM 2"
    model_classes = (HieraDet,)
    block_classes = (MultiScaleBlock,)
    attention_classes = (MultiScaleAttention,)
    norms_maps = False

    def stages(self, model: Any) -> list[list[Any]]:
        return cut_at(model.blocks, model.stage_ends)

    def final_norms(self, model: Any) -> list[nn.Module]:
        return [model.head.norm]

    def input_width(self, block: Any) -> int:
        return block.dim

    def pads_windows(self, block: Any) -> bool:
        return block.is_windowed  # by the size of every batch

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        y = block.norm1(x)
        if block.dim != block.dim_out:
            x = block.proj(y)
            if block.pool is not None:
                x = block.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if not block.is_windowed:
            return x + block.drop_path1(block.ls1(block.attn(y)))
        _, _, pad_h, pad_w = _calc_pad(y.shape[1], y.shape[2], block.window_size)
        y = block.attn(window_partition(F.pad(y, (0, 0, 0, pad_w, 0, pad_h)), block.window_size))
        stride = block.q_stride or (1, 1)
        size = (block.window_size[0] // stride[0], block.window_size[1] // stride[1])
        H, W = x.shape[1:3]
        rows, columns, _, _ = _calc_pad(H, W, size)
        y = window_unpartition(y, size, (rows, columns))[:, :H, :W].contiguous()
        return x + block.drop_path1(block.ls1(y))

    def attend(self, attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> Any:
        B, H, W, _ = x.shape
        q, k, v = self.project(attn, x.flatten(1, 2))
        if attn.q_pool is not None:
            q = attn.q_pool(q.transpose(2, 3).reshape(B, -1, H, W))
            H, W = q.shape[2:]
            q = q.flatten(2).unflatten(1, (attn.num_heads, -1)).transpose(2, 3)
        k = torch.cat([*(pair[0].expand(B, -1, -1, -1).type_as(k) for pair in extra), k], dim=2)
        v = torch.cat([*(pair[1].expand(B, -1, -1, -1).type_as(v) for pair in extra), v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v)
        return attn.proj(y.transpose(1, 2).reshape(B, H, W, -1))
