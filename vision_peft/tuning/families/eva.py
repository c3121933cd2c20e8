"""EVA-02, DINOv3 and other ViTs with rotary embeddings: timm's ``eva.py``."""

from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva as EvaModel
from timm.models.eva import EvaAttention, EvaBlock
from torch import Tensor

from vision_peft.tuning.families.attention_family import cat_biases
from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.graft import Graft, graft, override
from vision_peft.tuning.token_positions import TokenPositions


class Eva(FlatFamily):
    """Pre-norm blocks with LayerScale; queries and keys of patches are rotated, those of prefix tokens are not.

    Queries, keys and values come from one layer, whose bias may be kept outside of it, or from three, with fewer heads
    of keys and values (``AttentionRope``).
    """

    examples = "EVA-02, DINOv3"
    model_classes = (EvaModel,)
    block_classes = (EvaBlock,)
    attention_classes = (AttentionRope, EvaAttention)

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return y if block.gamma_1 is None else block.gamma_1 * y

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return y if block.gamma_2 is None else block.gamma_2 * y

    def separate_bias(self, attn: Any) -> Tensor | None:
        return cat_biases(attn) if isinstance(attn, EvaAttention) and attn.q_bias is not None else None

    def key_value_heads(self, attn: Any) -> tuple[int, int]:
        if self.is_fused(attn):
            return super().key_value_heads(attn)
        keys: Any = attn.k_proj
        heads = attn.num_kv_heads if isinstance(attn, AttentionRope) else attn.num_heads
        return heads, keys.out_features // heads

    def project(self, attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().project(attn, x) if self.is_fused(attn) else self._project(attn, x, x)

    def project_first(self, attn: Any, x: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.is_fused(attn):
            return super().project_first(attn, x, queries)
        return self._project(attn, x[:, :queries], x)

    def _project(self, attn: Any, asking: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries of the tokens ``asking``, keys and values of ``x`` by the three layers."""
        heads, head_dim = self.key_value_heads(attn)
        q = attn.q_proj(asking).unflatten(-1, (attn.num_heads, head_dim)).transpose(1, 2)
        k, v = (layer(x).unflatten(-1, (heads, head_dim)).transpose(1, 2) for layer in (attn.k_proj, attn.v_proj))
        return *self.norm_heads(attn, q, k), v

    def rotate(self, attn: Any, t: Tensor, rope: Tensor) -> Tensor:
        prefix, patches = t[:, :, : attn.num_prefix_tokens], t[:, :, attn.num_prefix_tokens :]
        return torch.cat([prefix, apply_rot_embed_cat(patches, rope, half=attn.rotate_half)], dim=2)

    def add_prefix_tokens(self, model: Any, tokens: int) -> None:
        for block in model.blocks:
            override(block.attn, num_prefix_tokens=block.attn.num_prefix_tokens + tokens)

    def place_input_tokens(self, model: Any, positions: TokenPositions) -> bool:
        if model.rope is None:
            return False
        graft(model.rope, RopeWithPrompts, placed=positions)
        if model.patch_drop is not None:
            graft(model.patch_drop, PatchDropWithPrompts, placed=positions)
        return True

    def join_with_positions(self, model: Any) -> None:
        graft(model, JoinWithPositions)


class JoinWithPositions(Graft):
    """The whole model: what is grafted onto ``norm_pre`` joins behind the position embeddings."""

    token_wise = True
    norm_pre: Any

    def _pos_embed(self, x: Tensor) -> tuple[Any, ...]:
        sequence, *rope = super()._pos_embed(x)  # type: ignore[misc]
        return self.norm_pre.join(sequence), *rope


class RopeWithPrompts(Graft):
    """Rotary embeddings ([depth heads] N C) with those of placed tokens ahead, out of the same draw of coordinates."""

    placed: TokenPositions

    def get_embed(self, *args: Any, **kwargs: Any) -> Tensor:
        rope: Tensor = super().get_embed(*args, **kwargs)  # type: ignore[misc]
        index = self.placed.index(rope.shape[-2], rope.device)
        return torch.cat([rope.index_select(-2, index), rope], dim=-2)


class PatchDropWithPrompts(Graft):
    """Patch dropout whose indices (B N), which choose rows of the rotary embeddings, keep those of placed tokens."""

    placed: TokenPositions

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x, kept = super().forward(x)
        if kept is None:
            return x, None
        tokens = torch.arange(self.placed.tokens, device=kept.device).expand(len(kept), -1)
        return x, torch.cat([tokens, kept + self.placed.tokens], dim=1)
