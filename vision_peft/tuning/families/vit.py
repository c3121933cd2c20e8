"""ViT, DeiT, DINOv2, CLIP, SigLIP: timm's ``vision_transformer.py``, and what else is made of it.

That is its subclass in ``deit.py``, ViTamin, and ViTs on a ResNet stem.
"""

from typing import Any

from timm.layers import Attention, HybridEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vitamin import GeGluMlp, MbConvStages
from torch import Tensor, nn

from vision_peft.tuning.families.family import Branch
from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.graft import Graft, graft, override
from vision_peft.tuning.token_positions import TokenPositions


class ViT(FlatFamily):
    """Pre-norm blocks with LayerScale; class token, registers and patches with learned or no positions."""

    examples = "ViT, DeiT, DINOv2, CLIP, SigLIP, ViTamin"
    model_classes = (VisionTransformer,)
    block_classes = (Block,)
    attention_classes = (Attention,)

    def patch_projection(self, model: Any) -> Any:
        embedding = self.patch_embedding(model)
        if not isinstance(embedding, HybridEmbed):
            return super().patch_projection(model)
        if isinstance(embedding.proj, nn.Conv2d):
            return embedding.proj
        stem: Any = embedding.backbone
        if isinstance(stem, MbConvStages):
            return stem.pool.proj
        return stem[-1].conv if isinstance(stem, ConvStem) else None

    def patch_norm(self, model: Any) -> nn.Module:
        return nn.Identity() if isinstance(model.patch_embed, HybridEmbed) else super().patch_norm(model)

    def mlp_linears(self, mlp: Any, target: str) -> list[nn.Linear]:
        if isinstance(mlp, GeGluMlp):
            return [mlp.w0, mlp.w1] if target == "fc1" else [mlp.w2]
        return super().mlp_linears(mlp, target)

    def norm_read(self, branch: Branch) -> nn.Module:
        return branch.layer.norm if isinstance(branch.layer, GeGluMlp) else branch.norm

    def classifier_names(self, model: Any) -> tuple[str, ...]:
        return ("head", "head_dist") if isinstance(model, VisionTransformerDistilled) else ("head",)

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.ls1(y)

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.ls2(y)

    def check_input_tokens(self, model: Any) -> None:
        if model.pool_include_prefix:
            raise ValueError(
                f"this {type(model).__name__} pools over its prefix tokens (pool_include_prefix): prompts would be "
                "averaged"
            )
        super().check_input_tokens(model)

    def add_prefix_tokens(self, model: Any, tokens: int) -> None:
        """Attention knows no positions: there is nothing to do."""

    def place_input_tokens(self, model: Any, positions: TokenPositions) -> bool:
        if not isinstance(model.patch_drop, nn.Identity):
            override(model.patch_drop, num_prefix_tokens=model.patch_drop.num_prefix_tokens + positions.tokens)
        return False

    def join_with_positions(self, model: Any) -> None:
        graft(model, JoinWithPositions)


class JoinWithPositions(Graft):
    """The whole model: what is grafted onto ``norm_pre`` joins behind the position embeddings."""

    token_wise = True
    norm_pre: Any

    def _pos_embed(self, x: Tensor) -> Tensor:
        return self.norm_pre.join(super()._pos_embed(x))  # type: ignore[misc]
