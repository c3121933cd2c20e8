"""Places of the image for input tokens that are no patches: such a token is told where it is as a patch there would be.

Attention does not know the order of a sequence; what tells it a patch's place differs between backbones, and is all
taken over: position embeddings, which join the token and pass the pre-norm (CLIP) with it; rotary embeddings, of every
block; rows and columns of a relative position bias (BEiT); positions and times that tubelets carry. The tokens stand
right before the patches, where pooling leaves them out and patches keep their grid. Nothing of it is stored.
"""

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import beit, eva, vision_transformer
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, graft, override
from vision_peft.tuning.patch_grid import patch_grid
from vision_peft.tuning.timm_blocks import blocks


@dataclass(frozen=True)
class Places:
    """The patches whose places ``tokens`` tokens take: ``end`` the last ones, ``interleaved`` some spread evenly."""

    tokens: int
    where: str

    def index(self, patches: int, device: Any = None) -> Tensor:
        """Numbers (P) of these patches in reading order (of tubelets by time first).

        Raises:
            ValueError: fewer patches than tokens.
        """
        if self.tokens > patches:
            raise ValueError(
                f'positions="{self.where}" takes a patch for every token: wanted at most {patches} tokens, '
                f"got {self.tokens}"
            )
        token = torch.arange(self.tokens, device=device)
        return patches - self.tokens + token if self.where == "end" else (2 * token + 1) * patches // (2 * self.tokens)


class PlaceEmbeddings:
    """Adds to tokens (P D) what the backbone adds to the patches at their places (none: rotary embeddings alone)."""

    def __init__(self, model: Any, places: Places) -> None:
        self.places = places
        self.model = (model,)  # read live: what it adds may train; in a tuple, so that it is registered nowhere
        dynamic = model.pos_embed is not None and not isinstance(model, beit.Beit) and model.dynamic_img_size
        self.grid = patch_grid(model) if dynamic else None

    def __call__(self, tokens: Tensor) -> Tensor:
        for table in self._tables():
            tokens = tokens + table[0, self.places.index(table.shape[1], table.device)]
        return tokens

    def _tables(self) -> list[Tensor]:
        """Embeddings (1 N D) of all patches of the current grid."""
        (model,) = self.model
        tables = carried_positions(model)
        if model.pos_embed is not None:
            patches = model.patch_embed.num_patches
            table = model.pos_embed[:, -patches:]  # class and register tokens may have positions of their own
            if self.grid is not None:
                table = resample_abs_pos_embed(table, self.grid, model.patch_embed.grid_size, num_prefix_tokens=0)
            tables.append(table)
        return tables


def carried_positions(model: Any) -> list[Tensor]:
    """Position embeddings (1 N D) that patches bring along from their embedding, if they do (tubelets)."""
    carried = getattr(model.patch_embed, "carried_positions", None)  # timm's own bring none
    return [] if carried is None else [carried()]


def take_places(model: Any, places: Places) -> None:
    """Let the attention of ``model`` find the tokens that stand right before the patches at ``places``.

    Raises:
        ValueError: more tokens than patches, or a backbone whose patches have no places.
    """
    places.index(model.patch_embed.num_patches)
    if isinstance(model, eva.Eva) and model.rope is not None:
        graft(model.rope, RopeWithPrompts, placed=places)
        if model.patch_drop is not None:
            graft(model.patch_drop, PatchDropWithPrompts, placed=places)
        return
    biased: list[tuple[Any, type[Graft]]] = []
    if isinstance(model, vision_transformer.VisionTransformer) and not isinstance(model.patch_drop, nn.Identity):
        override(model.patch_drop, num_prefix_tokens=model.patch_drop.num_prefix_tokens + places.tokens)
    if isinstance(model, beit.Beit):
        own = [block.attn for block in blocks(model)]
        biased = [(attn, BiasWithPlacedPrompts) for attn in own if attn.relative_position_bias_table is not None]
        if model.rel_pos_bias is not None:
            biased.append((model.rel_pos_bias, SharedBiasWithPlacedPrompts))
    for module, kind in biased:
        graft(module, kind, placed=places)
    if not biased and model.pos_embed is None and not carried_positions(model):
        raise ValueError(
            f"the patches of this {type(model).__name__} have no places that tokens could take: wanted "
            'positions="start"'
        )


class RopeWithPrompts(Graft):
    """Rotary embeddings ([depth heads] N C) with those of placed tokens ahead, out of the same draw of coordinates."""

    placed: Places

    def get_embed(self, *args: Any, **kwargs: Any) -> Tensor:
        rope: Tensor = super().get_embed(*args, **kwargs)  # type: ignore[misc]
        index = self.placed.index(rope.shape[-2], rope.device)
        return torch.cat([rope.index_select(-2, index), rope], dim=-2)


class PatchDropWithPrompts(Graft):
    """Patch dropout whose indices (B N), which choose rows of the rotary embeddings, keep those of placed tokens."""

    placed: Places

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x, kept = super().forward(x)
        if kept is None:
            return x, None
        tokens = torch.arange(self.placed.tokens, device=kept.device).expand(len(kept), -1)
        return x, torch.cat([tokens, kept + self.placed.tokens], dim=1)


class BiasWithPlacedPrompts(Graft):
    """BEiT attention whose position bias (1 heads N N) has rows and columns of placed tokens before the patches'."""

    placed: Places
    window_size: tuple[int, int]

    def _get_rel_pos_bias(self) -> Tensor:
        return _with_places(super()._get_rel_pos_bias(), self.placed, self.window_size)  # type: ignore[misc]


class SharedBiasWithPlacedPrompts(Graft):
    """The same for the position bias that all blocks share (heads N N)."""

    placed: Places
    window_size: tuple[int, int]

    def forward(self, *args: Any) -> Tensor:
        return _with_places(super().forward(*args), self.placed, self.window_size)


def _with_places(bias: Tensor, placed: Places, window_size: tuple[int, int]) -> Tensor:
    rows, patches = bias.shape[-1], window_size[0] * window_size[1]
    every = torch.arange(rows, device=bias.device)
    ahead, grid = every.split([rows - patches, patches])
    index = torch.cat([ahead, grid[placed.index(patches, bias.device)], grid])
    return bias.index_select(-2, index).index_select(-1, index)
