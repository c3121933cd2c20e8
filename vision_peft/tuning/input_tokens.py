"""Where input tokens join: behind the prefix tokens (class, registers) of a flat ViT, before its first block."""

from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import flat_family_of
from vision_peft.tuning.graft import override
from vision_peft.tuning.needs import Need
from vision_peft.tuning.patch_grid import patch_grid
from vision_peft.tuning.token_positions import TokenPositions


def prompt_insertion_module(model: Any) -> nn.Module:
    """Return the module whose output is the token sequence (B N C) that enters the first block.

    Raises:
        ValueError: the tokens of this family are no sequence.
    """
    return flat_family_of(model).prompt_insertion_module(model)


def add_prefix_tokens(model: Any, tokens: int, positions: TokenPositions | None = None) -> int:
    """Let ``model`` count ``tokens`` more prefix tokens; return the index where they join, behind its own ones.

    Pooling and ``forward_intermediates`` then leave them out, rotary embeddings do not turn them, and a relative
    position bias gets rows and columns of zeros for them. With ``positions`` attention finds them at those of patches
    instead: they must join before the forward of the prompt insertion module, and so stand behind those that join
    after it.

    Raises:
        ValueError: there are more tokens than patches, or patches have no positions that tokens could take.
    """
    family = flat_family_of(model)
    at = family.tokens_ahead(model)
    fixed_size = {"set_input_size": _refuse_input_size} if hasattr(model, "set_input_size") else {}
    override(model, num_prefix_tokens=model.num_prefix_tokens + tokens, **fixed_size)
    if positions is None:
        family.add_prefix_tokens(model, tokens)
        return at
    positions.index(family.patch_embedding(model).num_patches)
    found = family.place_input_tokens(model, positions)
    if not found and family.position_embedding(model) is None and not carried_positions(model):
        raise ValueError(
            f"the patches of this {type(model).__name__} have no positions that tokens could take: wanted "
            'positions="start"'
        )
    return at


def check_input_tokens(model: Any) -> None:
    """Check that tokens may join the sequence of ``model`` before its first block.

    Raises:
        ValueError: the family has no such sequence, its pooling would average them, or it would count them as patches.
    """
    blocks(model)
    flat_family_of(model).check_input_tokens(model)


def check_token_positions(model: Any) -> None:
    """Check that input tokens may take positions of patches.

    Raises:
        ValueError: the positions of a patch are not the same in every image.
    """
    flat_family_of(model).check_token_positions(model)


TOKEN_POSITIONS = Need("positions that input tokens can take", check_token_positions)
INPUT_TOKENS = Need("a sequence that input prompts can join", check_input_tokens)


def _refuse_input_size(*_: Any, **__: Any) -> None:
    raise ValueError(
        "the image size cannot change under input prompts, which timm would take for positions: detach first, or "
        "create the backbone with the img_size you want"
    )


class PositionEmbeddings:
    """Adds to tokens (P D) what the backbone adds to the patches at their positions; rotary ones are not added."""

    def __init__(self, model: Any, positions: TokenPositions) -> None:
        self.positions = positions
        self.model = (model,)  # read live: what it adds may train; in a tuple, so that it is registered nowhere
        self.grid = patch_grid(model) if flat_family_of(model).resizes_positions(model) else None

    def __call__(self, tokens: Tensor) -> Tensor:
        for table in self._tables():
            tokens = tokens + table[0, self.positions.index(table.shape[1], table.device)]
        return tokens

    def _tables(self) -> list[Tensor]:
        """Embeddings (1 N D) of all patches of the current grid."""
        (model,) = self.model
        tables = carried_positions(model)
        table = flat_family_of(model).position_embedding(model)
        if table is not None:
            patches = model.patch_embed.num_patches
            table = table[:, -patches:]  # class and register tokens may have positions of their own
            if self.grid is not None:
                grid = list(self.grid.now())
                table = resample_abs_pos_embed(table, grid, model.patch_embed.grid_size, num_prefix_tokens=0)
            tables.append(table)
        return tables


def carried_positions(model: Any) -> list[Tensor]:
    """Compute the position embeddings (1 N D) that patches bring along from their embedding, if they do (tubelets)."""
    carried = getattr(model.patch_embed, "carried_positions", None)  # timm's own bring none
    found = None if carried is None else carried()
    return [] if found is None else [found]
