"""ViTs with a relative position bias: timm's ``vision_transformer_relpos.py``, norms in front of attention or behind.

The bias of a block comes out of a table or a small MLP, or all blocks share one. Nothing is added to the patches.
"""

from typing import Any

from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from torch import Tensor, nn

from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.families.norms_behind import NormsBehind
from vision_peft.tuning.graft import Graft, graft, kinds, original, override
from vision_peft.tuning.position_bias import insert_placed, insert_zeros
from vision_peft.tuning.token_positions import TokenPositions


class RelPosViT(FlatFamily):
    """Pre-norm blocks with LayerScale; a class token, if any, joins right before the first block."""

    examples = "ViT with relative positions"
    model_classes = (VisionTransformerRelPos,)
    block_classes = (RelPosBlock,)
    attention_classes = (RelPosAttention,)
    attention_takes_frames = False

    def drops_patches(self, model: Any) -> bool:
        return False

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return block.ls1(y)

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return block.ls2(y)

    def gate(self, attn: Any) -> nn.Linear | None:
        return None

    def attention_bias(
        self, attn: Any, q: Tensor, shared_rel_pos: Tensor | None = None, **kwargs: Any
    ) -> Tensor | None:
        return shared_rel_pos if attn.rel_pos is None else attn.rel_pos.get_bias()

    def attention_output(self, attn: Any, x: Tensor, y: Tensor) -> Tensor:
        return y

    def prompt_insertion_module(self, model: Any) -> Any:
        return model.patch_embed

    def tokens_ahead(self, model: Any) -> int:
        return 0  # the class token is put in front of prompts and patches alike

    def resizes_positions(self, model: Any) -> bool:
        return False

    def position_embedding(self, model: Any) -> Any:
        return None

    def add_prefix_tokens(self, model: Any, tokens: int) -> None:
        for bias in self._biases(model):
            if PositionBiasWithPrompts in kinds(bias):
                override(bias, input_tokens=bias.input_tokens + tokens)
            else:
                graft(
                    bias, PositionBiasWithPrompts, input_tokens=tokens, own_tokens=original(model, "num_prefix_tokens")
                )

    def place_input_tokens(self, model: Any, positions: TokenPositions) -> bool:
        for bias in self._biases(model):
            graft(bias, PositionBiasWithPlacedPrompts, placed=positions)
        return True

    def join_with_positions(self, model: Any) -> str:
        return "behind"  # patches have their positions in attention only

    def _biases(self, model: Any) -> list[Any]:
        if model.shared_rel_pos is not None:
            return [model.shared_rel_pos]
        return [block.attn.rel_pos for block in model.blocks]


class ResPostRelPosViT(NormsBehind, RelPosViT):
    """The blocks with norms behind attention and MLP."""

    block_classes = (ResPostRelPosBlock,)


class PositionBiasWithPrompts(Graft):
    """A position bias (1 heads N N) that is zero from and to ``input_tokens`` behind the model's ``own_tokens``."""

    token_wise = True
    input_tokens: int
    own_tokens: int

    def get_bias(self) -> Tensor:
        return insert_zeros(super().get_bias(), self.own_tokens, self.input_tokens)  # type: ignore[misc]


class PositionBiasWithPlacedPrompts(Graft):
    """A position bias (1 heads N N) with rows and columns of placed tokens before the patches'."""

    token_wise = True
    placed: TokenPositions
    window_area: int

    def get_bias(self) -> Tensor:
        return insert_placed(super().get_bias(), self.placed, self.window_area)  # type: ignore[misc]
