"""The image encoder of SAM: timm's ``vision_transformer_sam.py``, tokens are maps (B H W C), mostly in windows."""

from typing import Any

from timm.models.vision_transformer_sam import (
    Attention,
    Block,
    VisionTransformerSAM,
    get_decomposed_rel_pos_bias,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn

from vision_peft.tuning.families.family import Run
from vision_peft.tuning.families.hierarchical import HierarchicalFamily, final_norm_of


class Sam(HierarchicalFamily):
    """Pre-norm blocks of one width, whose attention has relative positions by rows and columns.

    A neck of two convolutions, or a norm alone, stands behind them.
    """

    examples = "SAM"
    model_classes = (VisionTransformerSAM,)
    block_classes = (Block,)
    attention_classes = (Attention,)
    channels_first = True
    norms_maps = False  # its neck would change the channels

    def covers(self, model: Any) -> bool:
        """Leave those with rotary embeddings, of which timm has none by name, to the family of the rest."""
        return super().covers(model) and model.rope_global is None

    def stages(self, model: Any) -> list[list[Any]]:
        return [list(model.blocks)]

    def final_norms(self, model: Any) -> list[nn.Module]:
        last = model.neck[-1] if isinstance(model.neck, nn.Sequential) else model.neck
        return final_norm_of([last, getattr(model.head, "norm", last)])

    def map_norms(self, model: Any) -> list[nn.Module]:
        return []

    def pads_windows(self, block: Any) -> bool:
        return block.window_size > 0  # by the size of every batch

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        y = block.norm1(x)
        if block.window_size == 0:
            return x + block.drop_path1(block.ls1(block.attn(y)))
        y, padded = window_partition(y, block.window_size)
        y = block.drop_path1(block.ls1(block.attn(y)))
        return x + window_unpartition(y, block.window_size, (x.shape[1], x.shape[2]), padded)

    def mlp_half(self, block: Any, x: Tensor, run: Run | None = None) -> Tensor:
        return super().mlp_half(block, x.flatten(1, 2), run).view_as(x)

    def norm_heads(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return attn.q_norm(q), attn.k_norm(k)

    def attention_bias(self, attn: Any, q: Tensor, grid: tuple[int, int] = (1, 1), **kwargs: Any) -> Tensor | None:
        if not attn.use_rel_pos:
            return None
        bias = get_decomposed_rel_pos_bias(q.flatten(0, 1), attn.rel_pos_h, attn.rel_pos_w, grid, grid)
        return bias.unflatten(0, (-1, attn.num_heads))

    def attend(self, attn: Any, x: Tensor, extra: list[tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> Any:
        H, W = x.shape[1:3]
        return super().attend(attn, x.flatten(1, 2), extra, grid=(H, W)).unflatten(1, (H, W))
