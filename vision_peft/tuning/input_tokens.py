"""A place for input tokens: behind the prefix tokens (class, registers) of a flat ViT, before its first block."""

from typing import Any

import torch
from timm.layers import AttentionRope
from timm.models import beit, eva, vision_transformer
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, graft, kinds, original, override
from vision_peft.tuning.needs import Need
from vision_peft.tuning.timm_blocks import FLAT_FAMILIES, blocks
from vision_peft.tuning.token_positions import Places, take_places


def prompt_insertion_module(model: Any) -> nn.Module:
    """The module whose output is the token sequence (B N C) that enters the first block."""
    return model.pos_drop if isinstance(model, beit.Beit) else model.norm_pre


def add_prefix_tokens(model: Any, tokens: int, places: Places | None = None) -> int:
    """Tell ``model`` of ``tokens`` more prefix tokens; return the index where they belong, behind its own ones.

    Pooling and ``forward_intermediates`` then leave them out, rotary embeddings do not turn them, and a relative
    position bias gets rows and columns of zeros for them. With ``places`` attention finds them at places of patches
    instead: they must join before the input seat's forward, and so stand behind those that join after it.

    Raises:
        ValueError: see ``take_places``.
    """
    at = original(model, "num_prefix_tokens")
    override(model, num_prefix_tokens=model.num_prefix_tokens + tokens, set_input_size=_refuse_input_size)
    if places is not None:
        take_places(model, places)
        return at
    if isinstance(model, beit.Beit):
        _pad_position_bias(model, tokens)
    for block in blocks(model):
        attn: Any = block.attn
        if isinstance(attn, AttentionRope | eva.EvaAttention):
            override(attn, num_prefix_tokens=attn.num_prefix_tokens + tokens)
    return at


def check_input_tokens(model: Any) -> None:
    """Check that tokens may join the sequence of ``model`` before its first block.

    Raises:
        ValueError: the family has no such sequence, its pooling would average them, or it would count them as patches.
    """
    name = type(model).__name__
    if not isinstance(model, FLAT_FAMILIES):
        raise ValueError(f"{name} has no sequence that input prompts could join: use deep prompts (VPT with deep=True)")
    if isinstance(model, vision_transformer.VisionTransformer) and model.pool_include_prefix:
        raise ValueError(f"this {name} pools over its prefix tokens (pool_include_prefix): prompts would be averaged")
    positions_count_prefix = (
        model.pos_embed is not None and not isinstance(model, beit.Beit) and not model.no_embed_class
    )
    if positions_count_prefix and model.dynamic_img_size:
        raise ValueError(
            f"this {name} resizes positions at every forward (dynamic_img_size) by its number of prefix tokens, which "
            "prompts change: create it with a fixed img_size"
        )


INPUT_TOKENS = Need("a sequence that input prompts can join", check_input_tokens)


def _refuse_input_size(*_: Any, **__: Any) -> None:
    raise ValueError(
        "the image size cannot change under input prompts, which timm would take for positions: detach first, or "
        "create the backbone with the img_size you want"
    )


class BiasWithPrompts(Graft):
    """BEiT attention whose position bias (1 heads N N) is zero from and to ``input_tokens`` behind the class token."""

    input_tokens: int

    def _get_rel_pos_bias(self) -> Tensor:
        return _with_zeros(super()._get_rel_pos_bias(), self.input_tokens)  # type: ignore[misc]


class SharedBiasWithPrompts(Graft):
    """The same for the position bias that all blocks share (heads N N)."""

    input_tokens: int

    def forward(self, *args: Any) -> Tensor:
        return _with_zeros(super().forward(*args), self.input_tokens)


def _pad_position_bias(model: beit.Beit, tokens: int) -> None:
    seats: list[tuple[Any, type[Graft]]] = [(block.attn, BiasWithPrompts) for block in blocks(model)]
    if model.rel_pos_bias is not None:
        seats.append((model.rel_pos_bias, SharedBiasWithPrompts))
    for module, kind in seats:
        if kind in kinds(module):
            override(module, input_tokens=module.input_tokens + tokens)
        else:
            graft(module, kind, input_tokens=tokens)


def _with_zeros(bias: Tensor, tokens: int) -> Tensor:
    for dim in (-2, -1):
        shape = list(bias.shape)
        shape[dim] = tokens
        first, rest = bias.tensor_split([1], dim)  # the class token keeps the first place
        bias = torch.cat([first, bias.new_zeros(shape), rest], dim)
    return bias
