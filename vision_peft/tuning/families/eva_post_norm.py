"""EVA blocks with norms behind attention and MLP: ``EvaBlockPostNorm`` of timm's ``eva.py``."""

from timm.models.eva import EvaBlockPostNorm

from vision_peft.tuning.families.eva import Eva
from vision_peft.tuning.families.norms_behind import NormsBehind


class EvaPostNorm(NormsBehind, Eva):
    """The blocks; their models are those of ``eva.py``."""

    block_classes = (EvaBlockPostNorm,)
