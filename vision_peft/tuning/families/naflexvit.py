"""NaFlexViT: timm's ``naflexvit.py``, whose images are tensors, or dicts of patches on a grid of their own each.

Its blocks are those of ``vit.py`` and ``eva.py``. Patches that fill a batch up are masked in attention; prompts and
extra keys and values are seen by every query.
"""

from typing import Any

import torch.nn.functional as F
from timm.layers import AttentionRope
from timm.models.eva import EvaAttention
from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn

from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.graft import Graft, graft, kinds, override
from vision_peft.tuning.token_positions import TokenPositions


class NaFlexViT(FlatFamily):
    """The models; position embeddings are resampled for every grid."""

    examples = "NaFlexViT"
    model_classes = (NaFlexVit,)
    block_classes = ()
    attention_classes = ()

    def patch_embedding(self, model: Any) -> Any:
        return model.embeds

    def patch_projection(self, model: Any) -> Any:
        # where patches change their size, its weight is read without a call
        return None if model.embeds.enable_patch_interpolator else model.embeds.proj

    def patch_norm(self, model: Any) -> nn.Module:
        return model.embeds.norm

    def drops_patches(self, model: Any) -> bool:
        return model.patch_drop is not None

    def grid_varies(self, model: Any) -> bool:
        return True

    def position_embedding(self, model: Any) -> Any:
        return None

    def resizes_positions(self, model: Any) -> bool:
        return False

    def check_input_tokens(self, model: Any) -> None:
        if model.pool_include_prefix:
            raise ValueError(
                f"this {type(model).__name__} pools over its prefix tokens (pool_include_prefix): prompts would be "
                "averaged"
            )

    def check_token_positions(self, model: Any) -> None:
        raise ValueError(
            f"a {type(model).__name__} gives the patches of every image positions by their own grid, and none that "
            'input tokens could take: wanted positions="start"'
        )

    def add_prefix_tokens(self, model: Any, tokens: int) -> None:
        for block in model.blocks:
            if isinstance(block.attn, AttentionRope | EvaAttention):  # rotary embeddings leave prefix tokens out
                override(block.attn, num_prefix_tokens=block.attn.num_prefix_tokens + tokens)
        if model.rope is not None and RopeOfPatches in kinds(model):
            override(model, rope_prompts=model.rope_prompts + tokens)
        elif model.rope is not None:
            graft(model, RopeOfPatches, rope_prompts=tokens)

    def place_input_tokens(self, model: Any, positions: TokenPositions) -> bool:
        self.check_token_positions(model)
        return False

    def join_with_positions(self, model: Any) -> None:
        self.check_token_positions(model)


class RopeOfPatches(Graft):
    """The whole model, which counts the patches of a dict as what is no prefix token, before prompts have joined."""

    token_wise = True
    rope_prompts: int

    def _generate_rope_naflex(self, x: Tensor, patch_coord: Tensor) -> Any:
        sequence = F.pad(x, (0, 0, self.rope_prompts, 0))
        return super()._generate_rope_naflex(sequence, patch_coord)  # type: ignore[misc]
