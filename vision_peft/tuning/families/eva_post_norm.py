"""EVA blocks with norms behind attention and MLP: ``EvaBlockPostNorm`` of timm's ``eva.py``."""

from typing import Any

from timm.models.eva import EvaBlockPostNorm
from torch import Tensor

from vision_peft.tuning.families.eva import Eva


class EvaPostNorm(Eva):
    """The blocks; their models are those of ``eva.py``."""

    model_classes = ()
    block_classes = (EvaBlockPostNorm,)
    attention_classes = ()
    has_input_norms = False

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.norm1(y)

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.norm2(y)
