"""XCiT: timm's ``xcit.py``, attention over channels, then a convolution over the map of patches, then the MLP.

Scores are products of channels, summed over all tokens, so that there are no keys and values that a query could see
beside the others, and the convolution has a place for patches only: prompts and prefixes have no place here. The blocks
behind these, in which the class token attends, are reached by what asks for layers, norms or biases alone.
"""

from typing import Any

from timm.models.xcit import XCABlock, Xcit
from torch import Tensor, nn

from vision_peft.tuning.families.late_class_token import LateClassTokenFamily


class XCiT(LateClassTokenFamily):
    """Pre-norm blocks of three parts with LayerScale; the convolution stands between the halves."""

    examples = "XCiT"
    model_classes = (Xcit,)
    block_classes = (XCABlock,)
    attention_classes = ()

    def enter(self, x: Tensor, H: int, W: int) -> tuple[Tensor, dict[str, Any]]:
        return x, {"H": H, "W": W}

    def attn_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        return super().attn_half(block, x)  # attention knows no map

    def between_halves(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        y = block.local_mp(block.norm3(x), kwargs["H"], kwargs["W"])
        return x + block.drop_path3(block.gamma3 * y)

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.gamma1 * y

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.gamma2 * y

    def norms(self, block: Any) -> list[Any]:
        return [block.norm1, block.norm3, block.norm2]

    def patch_projection(self, model: Any) -> Any:
        _, last = model.patch_embed.proj[-1]  # the BatchNorm behind the last convolution of the stem
        return last

    def patch_norm(self, model: Any) -> nn.Module:
        return nn.Identity()

    def grid_of_size(self, embedding: Any, size: tuple[int, int]) -> tuple[int, int]:
        rows, columns = size
        return rows // embedding.patch_size, columns // embedding.patch_size
