"""BEiT: timm's ``beit.py``, whose attention has a relative position bias, of each block or shared by all."""

import math
from typing import Any

from timm.models.beit import Attention, Block
from timm.models.beit import Beit as BeitModel
from torch import Tensor, nn

from vision_peft.tuning.families.attention_family import cat_biases
from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.graft import Graft, graft, kinds, override
from vision_peft.tuning.position_bias import insert_placed, insert_zeros
from vision_peft.tuning.token_positions import TokenPositions


class Beit(FlatFamily):
    """Pre-norm blocks with LayerScale; the bias of queries and values is kept outside of their layer."""

    examples = "BEiT"
    model_classes = (BeitModel,)
    block_classes = (Block,)
    attention_classes = (Attention,)
    attention_takes_frames = False

    def drops_patches(self, model: Any) -> bool:
        return False

    def after_attn(self, block: Any, y: Tensor) -> Tensor:
        return y if block.gamma_1 is None else block.gamma_1 * y

    def after_mlp(self, block: Any, y: Tensor) -> Tensor:
        return y if block.gamma_2 is None else block.gamma_2 * y

    def separate_bias(self, attn: Any) -> Tensor | None:
        return None if attn.q_bias is None else cat_biases(attn)

    def key_shift_cancels(self, attn: Any) -> bool:
        return True

    def gate(self, attn: Any) -> nn.Linear | None:
        return None

    def norm_heads(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k

    def attention_bias(
        self, attn: Any, q: Tensor, shared_rel_pos_bias: Tensor | None = None, **kwargs: Any
    ) -> Tensor | None:
        bias = None if attn.relative_position_bias_table is None else attn._get_rel_pos_bias()
        if shared_rel_pos_bias is None:
            return bias
        return shared_rel_pos_bias if bias is None else bias + shared_rel_pos_bias

    def attention_output(self, attn: Any, x: Tensor, y: Tensor) -> Tensor:
        return y

    def prompt_insertion_module(self, model: Any) -> Any:
        return model.pos_drop

    def resizes_positions(self, model: Any) -> bool:
        return False

    def add_prefix_tokens(self, model: Any, tokens: int) -> None:
        """Give a relative position bias rows and columns of zeros."""
        biased: list[tuple[Any, type[Graft]]] = [(block.attn, BiasWithPrompts) for block in model.blocks]
        if model.rel_pos_bias is not None:
            biased.append((model.rel_pos_bias, SharedBiasWithPrompts))
        for module, kind in biased:
            if kind in kinds(module):
                override(module, input_tokens=module.input_tokens + tokens)
            else:
                graft(module, kind, input_tokens=tokens)

    def place_input_tokens(self, model: Any, positions: TokenPositions) -> bool:
        own = [block.attn for block in model.blocks if block.attn.relative_position_bias_table is not None]
        for attn in own:
            graft(attn, BiasWithPlacedPrompts, placed=positions)
        if model.rel_pos_bias is not None:
            graft(model.rel_pos_bias, SharedBiasWithPlacedPrompts, placed=positions)
        return bool(own) or model.rel_pos_bias is not None

    def join_with_positions(self, model: Any) -> str:
        return "front"  # positions join in the model's own forward, right before that module


class BiasWithPrompts(Graft):
    """Attention whose position bias (1 heads N N) is zero from and to ``input_tokens`` behind the class token."""

    token_wise = True
    input_tokens: int

    def _get_rel_pos_bias(self) -> Tensor:
        return insert_zeros(super()._get_rel_pos_bias(), 1, self.input_tokens)  # type: ignore[misc]


class SharedBiasWithPrompts(Graft):
    """The same for the position bias that all blocks share (heads N N)."""

    input_tokens: int

    def forward(self, *args: Any) -> Tensor:
        return insert_zeros(super().forward(*args), 1, self.input_tokens)


class BiasWithPlacedPrompts(Graft):
    """Attention whose position bias (1 heads N N) has rows and columns of placed tokens before the patches'."""

    token_wise = True
    placed: TokenPositions
    window_size: tuple[int, int]

    def _get_rel_pos_bias(self) -> Tensor:
        return insert_placed(super()._get_rel_pos_bias(), self.placed, math.prod(self.window_size))  # type: ignore[misc]


class SharedBiasWithPlacedPrompts(Graft):
    """The same for the position bias that all blocks share (heads N N)."""

    placed: TokenPositions
    window_size: tuple[int, int]

    def forward(self, *args: Any) -> Tensor:
        return insert_placed(super().forward(*args), self.placed, math.prod(self.window_size))
