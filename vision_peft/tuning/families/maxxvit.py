"""MaxViT: timm's ``maxxvit.py``; an MBConv block, attention in windows, attention over a grid of strides, and again.

A block is one of the two attentions with its MLP (``PartitionAttentionCl``, maps B H W C). CoAtNet and the experimental
layouts of that file, whose blocks work on B C H W, belong to the family of the rest.
"""

from typing import Any

from timm.models.maxxvit import AttentionCl, MaxxVit, MaxxVitBlock, PartitionAttentionCl
from torch import Tensor, nn

from vision_peft.tuning.families.hierarchical import HierarchicalFamily, final_norm_of


class MaxViT(HierarchicalFamily):
    """Pre-norm blocks with a relative position bias; between them stand convolutional blocks."""

    examples = "MaxViT"
    model_classes = (MaxxVit,)
    block_classes = (PartitionAttentionCl,)
    attention_classes = (AttentionCl,)
    channels_first = True

    def covers(self, model: Any) -> bool:
        return super().covers(model) and all(
            isinstance(block, MaxxVitBlock) and not block.nchw_attn for stage in model.stages for block in stage.blocks
        )

    def stages(self, model: Any) -> list[list[Any]]:
        return [
            [part for block in stage.blocks for part in (block.attn_block, block.attn_grid) if part is not None]
            for stage in model.stages
        ]

    def conv_parts(self, model: Any) -> list[nn.Module]:
        return [model.stem, *(block.conv for stage in model.stages for block in stage.blocks)]

    def final_norms(self, model: Any) -> list[nn.Module]:
        return final_norm_of([model.norm, getattr(model.head, "norm", model.norm)])

    def patch_projection(self, model: Any) -> None:
        return None

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        return x + block.drop_path1(block.ls1(block._partition_attn(block.norm1(x))))

    def attention_bias(self, attn: Any, q: Tensor, **kwargs: Any) -> Tensor | None:
        return None if attn.rel_pos is None else attn.rel_pos.get_bias()

    def attend(self, attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> Any:
        return super().attend(attn, x.flatten(1, -2), extra, **kwargs).view_as(x)

    def rows_by_head(self, attn: Any) -> int | None:
        return attn.num_heads if attn.head_first else None

    def project(self, attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not attn.head_first:
            return super().project(attn, x)
        q, k, v = attn.qkv(x).unflatten(-1, (attn.num_heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind(0)
        return q, k, v
