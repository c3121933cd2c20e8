"""What the families share in which blocks see patches alone and a class token joins behind them: CaiT, XCiT."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.token_positions import TokenPositions


class LateClassTokenFamily(FlatFamily):
    """The final norm is that of class token and patches, behind blocks in which the class token attends."""

    norm_follows_blocks = False

    def final_norms(self, model: Any) -> list[nn.Module]:
        return [model.norm]

    def reads_class_token_only(self, model: Any) -> bool:
        return False  # the class token reads all patches

    def drops_patches(self, model: Any) -> bool:
        return False

    @abstractmethod
    def after_attn(self, block: Any, y: Tensor) -> Tensor: ...

    def gate(self, attn: Any) -> nn.Linear | None:
        return None

    def norm_heads(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k

    def attention_bias(self, attn: Any, q: Tensor, **kwargs: Any) -> None:
        return None

    def attention_output(self, attn: Any, x: Tensor, y: Tensor) -> Tensor:
        return y

    def check_input_tokens(self, model: Any) -> None:
        raise ValueError(
            f"the blocks of {type(model).__name__} see patches alone, and timm takes what comes out of them for "
            "patches: input prompts would be counted as some; use deep prompts where attention takes them"
        )

    def add_prefix_tokens(self, model: Any, tokens: int) -> None:
        self.check_input_tokens(model)

    def place_input_tokens(self, model: Any, positions: TokenPositions) -> bool:
        self.check_input_tokens(model)
        return False

    def join_with_positions(self, model: Any) -> None:
        self.check_input_tokens(model)
