"""CaiT: timm's ``cait.py``, attention whose heads mix before and behind the softmax, a class token that joins late.

The blocks are those of the patches. The two behind them, in which the class token alone attends, are no blocks of their
own kind for methods: what asks for layers, norms or biases reaches them (BitFit, NormTuning).
"""

from typing import Any

from timm.models.cait import Cait as CaitModel
from timm.models.cait import LayerScaleBlock, TalkingHeadAttn
from torch import Tensor, nn

from vision_peft.tuning.families.late_class_token import LateClassTokenFamily


class Cait(LateClassTokenFamily):
    """Pre-norm blocks with LayerScale and one drop-path for both halves."""

    examples = "CaiT"
    model_classes = (CaitModel,)
    block_classes = (LayerScaleBlock,)
    attention_classes = (TalkingHeadAttn,)

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.gamma_1 * y

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.gamma_2 * y

    def shares_drop_path(self, block: Any) -> bool:
        return True

    def drop_path(self, block: Any, half: str) -> nn.Module:
        if not hasattr(block, "drop_path1"):
            return block.drop_path
        return super().drop_path(block, half)

    def mix_values(self, attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        scores = (q * attn.scale) @ k.transpose(-2, -1)
        weights = _mix_heads(attn.proj_l, scores).softmax(dim=-1)
        return attn.attn_drop(_mix_heads(attn.proj_w, weights)) @ v


def _mix_heads(layer: nn.Module, weights: Tensor) -> Tensor:
    """Pass ``weights`` (B heads N M) through a layer over the heads."""
    return layer(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
