"""What the families share whose tokens are one sequence (B N C): prefix tokens, then patches."""

from abc import abstractmethod
from typing import Any

import torch
from timm.layers import HybridEmbed, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vision_peft.tuning.families.family import Family
from vision_peft.tuning.graft import HeadGraft, kinds, original
from vision_peft.tuning.token_positions import TokenPositions


class FlatFamily(Family):
    """ViT, EVA and BEiT: class token and registers, then patches. The defaults are those of ``VisionTransformer``."""

    attention_takes_frames = True

    def stages(self, model: Any) -> list[list[Any]]:
        return [list(model.blocks)]

    def final_norms(self, model: Any) -> list[nn.Module]:
        return [model.norm, model.fc_norm]

    def reads_class_token_only(self, model: Any) -> bool:
        reads_first = model.global_pool == "token" and not any(issubclass(kind, HeadGraft) for kind in kinds(model))
        return reads_first and self.prefix_tokens(model) > 0  # else the first token is a patch

    def read_tokens(self, model: Any) -> int | None:
        pools = getattr(model, "attn_pool", None) is not None
        return len(self.classifier_names(model)) if self.reads_class_token_only(model) and not pools else None

    def prefix_tokens(self, model: Any) -> int:
        return model.num_prefix_tokens

    def drops_patches(self, model: Any) -> bool:
        """Tell whether ``model`` leaves patches out in training (``patch_drop_rate``)."""
        return model.patch_drop is not None and not isinstance(model.patch_drop, nn.Identity)

    def grid_varies(self, model: Any) -> bool:
        """Tell whether images of one batch may have different grids of patches."""
        return False

    def grid_of_size(self, embedding: Any, size: tuple[int, int]) -> tuple[int, int]:
        """Return (rows, columns) of the patches that ``embedding`` cuts an image of ``size`` into."""
        # As timm counts on images: embeddings of clips answer with the map of all frames.
        kind: Any = HybridEmbed if isinstance(embedding, HybridEmbed) else PatchEmbed
        return kind.dynamic_feat_size(embedding, size)

    def side_block(self, block: Any, dim: int) -> nn.Module:
        """Its attention is global and plain: no rotary or relative positions."""
        return Block(dim, self.heads(block), mlp_ratio=4, qkv_bias=True)

    # Tokens that join the sequence

    def prompt_insertion_module(self, model: Any) -> Any:
        """Return the module whose output is the token sequence (B N C) that enters the first block."""
        return model.norm_pre

    def tokens_ahead(self, model: Any) -> int:
        """Count the model's own prefix tokens that stand in the output of the prompt insertion module."""
        return original(model, "num_prefix_tokens")

    def position_embedding(self, model: Any) -> Any:
        """Return the learned table (1 N D) that is added to the patches, the last of its N; None without one."""
        return model.pos_embed

    def check_input_tokens(self, model: Any) -> None:
        """Raise ValueError where tokens cannot join the sequence of this model, with the reason."""
        if self.resizes_positions(model) and not model.no_embed_class:
            raise ValueError(
                f"this {type(model).__name__} resizes positions at every forward (dynamic_img_size) by its number of "
                "prefix tokens, which prompts change: create it with a fixed img_size"
            )

    def check_token_positions(self, model: Any) -> None:
        """Raise ValueError where input tokens cannot take positions of patches, with the reason."""

    def resizes_positions(self, model: Any) -> bool:
        """Tell whether position embeddings follow the size of every batch (``dynamic_img_size``)."""
        return model.pos_embed is not None and model.dynamic_img_size

    @abstractmethod
    def add_prefix_tokens(self, model: Any, tokens: int) -> None:
        """Let attention take ``tokens`` tokens behind the prefix tokens for tokens without a position."""

    @abstractmethod
    def place_input_tokens(self, model: Any, positions: TokenPositions) -> bool:
        """Let attention find tokens right before the patches at ``positions``.

        Returns:
            Whether attention has positions of its own (rotary embeddings, a position bias).
        """

    @abstractmethod
    def join_with_positions(self, model: Any) -> str | None:
        """Prepare ``model`` for tokens that join as soon as patches have their positions.

        Returns:
            "front" where that is in front of the prompt insertion module. None where ``model`` was grafted: it calls
            ``join`` (B N C -> B N+P C) of what is grafted onto that module.
        """

    # Attention of timm.layers, which has norms of queries, keys and output, and a gate

    def gate(self, attn: Any) -> nn.Linear | None:
        gate: Any = attn.gate if isinstance(attn, self.attention_classes) else None
        return gate

    def norm_heads(self, attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return attn.q_norm(q), attn.k_norm(k)

    def attention_bias(
        self, attn: Any, q: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **kwargs: Any
    ) -> Tensor | None:
        N = q.shape[2]
        return torch.ones(N, N, dtype=torch.bool, device=q.device).tril() if is_causal else attn_mask

    def attention_output(self, attn: Any, x: Tensor, y: Tensor) -> Tensor:
        y = attn.norm(y)
        return y if attn.gate is None else y * attn.gate(x).sigmoid()
