"""Swin v2 by Christoph Reich: timm's ``swin_transformer_v2_cr.py``, norms behind attention and MLP, cosines.

It differs from timm's ``swin_transformer_v2.py`` in what ends a block: some have a norm of the residual stream there,
in every model the very last one, whose norm is the final norm. Queries, keys and values have plain biases, and position
biases come out of a small MLP as they are. A constant on all of them (the bias of its last layer) changes nothing.
"""

import math
from typing import Any

import torch.nn.functional as F
from timm.models.swin_transformer_v2_cr import (
    PatchMerging,
    SwinTransformerV2Cr,
    SwinTransformerV2CrBlock,
    WindowMultiHeadAttention,
)
from torch import Tensor, nn

from vision_peft.tuning.families.windowed import WindowedFamily
from vision_peft.tuning.graft import Graft, graft


class UncheckpointedStage(Graft):
    """A stage whose blocks run once, also where the model checkpoints gradients."""

    @property
    def grad_checkpointing(self) -> bool:
        return False

    @grad_checkpointing.setter
    def grad_checkpointing(self, enable: bool) -> None:
        self.__dict__["grad_checkpointing"] = enable  # for the stage without this graft

    def fold(self) -> None:
        """Nothing was added to the weights."""


class SwinV2Cr(WindowedFamily):
    """Patch merging stands in front of every stage but the first, behind a norm of the four tokens side by side."""

    examples = "Swin v2 CR"
    model_classes = (SwinTransformerV2Cr,)
    block_classes = (SwinTransformerV2CrBlock,)
    attention_classes = (WindowMultiHeadAttention,)
    merging_classes = (PatchMerging,)
    has_input_norms = False

    def stage_modules(self, model: Any) -> list[Any]:
        return list(model.stages)

    def final_norms(self, model: Any) -> list[nn.Module]:
        return [model.stages[-1].blocks[-1].norm3]

    def run_final_norm_once(self, model: Any) -> None:
        graft(model.stages[-1], UncheckpointedStage)

    def as_sequence(self, model: Any, features: Tensor) -> Tensor:
        return features.flatten(2).transpose(1, 2)  # channels stand first

    def patch_projection(self, model: Any) -> Any:
        return model.patch_embed.proj

    def map_size(self, block: Any) -> tuple[int, int]:
        return block.feat_size

    def attend_in_windows(self, block: Any, x: Tensor) -> Tensor:
        return block._shifted_window_attn(x)

    def block_end(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        return block.norm3(x)

    def norms(self, block: Any) -> list[Any]:
        return [norm for norm in (*super().norms(block), block.norm3) if not isinstance(norm, nn.Identity)]

    def scale_scores(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        scale = attn.logit_scale.clamp(max=math.log(100)).exp().view(-1, 1, 1)
        return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), 1.0

    def attention_bias(self, attn: Any, q: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return self.with_mask(attn._relative_positional_encodings(), q, mask)
