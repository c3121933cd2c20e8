"""The transformer blocks of a timm model: their order, width and layers, and the graft that splits one in halves."""

import copy
from functools import partial
from typing import Any

from torch import Tensor, nn

from vision_peft.tuning.families import family_of, family_of_block
from vision_peft.tuning.families.family import Branch, Run
from vision_peft.tuning.graft import Graft, graft, kinds, pop_grafts, push_grafts
from vision_peft.tuning.needs import Need


def blocks(model: Any) -> list[Any]:
    """List the transformer blocks of ``model`` in order of depth, over all stages.

    Raises:
        ValueError: not a family, or not a kind of block, that methods can attach to.
    """
    return [block for stage in stages(model) for block in stage]


def stages(model: Any) -> list[list[Any]]:
    """List the blocks of ``model`` by stage, in order of depth: Swin has several stages, a flat ViT has one.

    Raises:
        ValueError: as of ``blocks``.
    """
    found = family_of(model).stages(model)
    for stage in found:
        for block in stage:
            family_of_block(block)
    return found


BLOCKS = Need("transformer blocks", blocks)


def width(block: Any) -> int:
    """Return the channels of the residual stream at ``block`` (they grow over Swin's stages)."""
    return family_of_block(block).width(block)


def input_width(block: Any) -> int:
    """Return the channels of what enters ``block``; its attention may widen them."""
    return family_of_block(block).input_width(block)


def check_keeps_width(model: Any) -> None:
    """Check that attention gives every block the tokens and channels that enter it.

    Raises:
        ValueError: in some blocks it pools tokens and widens them.
    """
    if any(input_width(block) != width(block) for block in blocks(model)):
        raise ValueError(
            f"some blocks of {type(model).__name__} pool and widen their tokens in attention, and the method adds to "
            "its output what it makes of its input: take a backbone of blocks that keep their width"
        )


KEEPS_WIDTH = Need("blocks that keep their width", check_keeps_width)


def check_side_blocks(model: Any) -> None:
    """Check that narrow blocks can be made for the tokens of every block.

    Raises:
        ValueError: of this family none are made.
    """
    blocks(model)
    if not family_of(model).has_side_blocks:
        raise ValueError(
            f"there are no side blocks that see tokens as the blocks of {type(model).__name__} do: take a ViT or Swin"
        )


SIDE_BLOCKS = Need("side blocks that see the same tokens", check_side_blocks)


def branches(block: Any, half: str) -> list[Branch]:
    """List the branches of the half ``attn`` or ``mlp`` of ``block``: norm in front, layer, drop-path behind.

    One in most blocks; every layer's output joins the residual stream behind the drop-path of its branch. Where
    attention and MLP stand side by side and join as one, both halves name one drop-path.
    """
    return family_of_block(block).branches(block, half)


def output_seats(block: Any, half: str) -> list[Any]:
    """List the modules that the outputs of the half ``attn`` or ``mlp`` pass last, for grafts on them.

    Those are the drop-paths of its branches. A block with one for both halves gets two (``TwoDropPaths``).
    """
    family = family_of_block(block)
    if family.shares_drop_path(block) and not isinstance(block, TwoDropPaths):
        graft(block, TwoDropPaths, drop_path1=copy.deepcopy(block.drop_path), drop_path2=copy.deepcopy(block.drop_path))
    return [branch.drop_path for branch in family.branches(block, half)]


def check_single_branches(model: Any) -> None:
    """Check that every block has one attention and one MLP.

    Raises:
        ValueError: it has several side by side, with norms of their own.
    """
    for block in blocks(model):
        if len(branches(block, "attn") + branches(block, "mlp")) > 2:
            raise ValueError(
                f"{type(block).__name__} has several attentions and MLPs side by side, and the method reads the norm "
                "of one: take a backbone with one each a block"
            )


SINGLE_BRANCHES = Need("one attention and one MLP a block", check_single_branches)


def linears(block: Any, target: str) -> list[nn.Linear]:
    """List the linear layers of ``block`` that ``target`` names: one of qkv, q, k, v, proj, fc1, fc2.

    On a fused projection ``q``, ``k`` and ``v`` all give the one ``qkv`` layer; where they are separate, ``qkv`` gives
    the three. A SwiGLU has two first layers. A ``qkv`` that timm would bypass is made callable (``qkv_bias_separate``).

    Raises:
        ValueError: an MLP of a class that is not known.
    """
    return family_of_block(block).linears(block, target)


def is_fused(block: Any) -> bool:
    """Tell whether queries, keys and values of ``block`` come from one ``qkv`` layer."""
    return family_of_block(block).is_fused(branches(block, "attn")[0].layer)


def rows_by_head(block: Any) -> int | None:
    """Return the number of heads by which the rows of a fused ``qkv`` are ordered; None: all queries first."""
    return family_of_block(block).rows_by_head(branches(block, "attn")[0].layer)


def separate_biases(block: Any) -> dict[str, Tensor]:
    """Return the biases (D) of queries, keys and values that are kept outside of a fused ``qkv`` layer, by slice.

    They are the block's own tensors, which a fold may change; keys have one of zeros. Empty where there are none.
    """
    return family_of_block(block).separate_biases(branches(block, "attn")[0].layer)


def attn_half(block: Any, x: Tensor, **kwargs: Any) -> Tensor:
    """Compute the half of ``block`` with attention; ``x`` is B N C (Swin: B H W C), as for ``mlp_half``.

    ``run_in_halves`` differs from timm's own forward by exactly 0, which the tests hold for every family, so that a
    timm that moves the seam fails there.
    """
    return family_of_block(block).attn_half(block, x, **kwargs)


def mlp_half(block: Any, x: Tensor, run: Run | None = None) -> Tensor:
    """Compute the half of ``block`` with the MLP; ``run(function, x)`` calls what stands in front of its drop-path."""
    return family_of_block(block).mlp_half(block, x, run)


def block_end(block: Any, x: Tensor, **kwargs: Any) -> Any:
    """Pass what both halves of ``block`` made through a norm that ends it; most blocks have none and give ``x``."""
    return family_of_block(block).block_end(block, x, **kwargs)


def attn_input(block: Any, x: Tensor) -> Tensor:
    """Return what attention of ``block`` reads of the residual stream ``x``: a norm of it, after post-norm ``x``."""
    return family_of_block(block).attn_input(block, x)


def mlp_input(block: Any, x: Tensor) -> Tensor:
    """Return what the MLP of ``block`` reads of the residual stream ``x``: a norm of it, after post-norm ``x``."""
    return family_of_block(block).mlp_input(block, x)


def run_in_halves(block: Any, *args: Any, **kwargs: Any) -> Any:
    """Run ``block`` on what timm gives it: its halves, the grafts on them included, and what stands around them."""
    family = family_of_block(block)
    x, given = family.enter(*args, **kwargs)
    if isinstance(block, BlockGraft):
        block.note_input(x)
    attend, transform = (
        (block.attn_half, block.mlp_half)
        if isinstance(block, BlockGraft)
        else (partial(attn_half, block), partial(mlp_half, block))
    )
    x = family.between_halves(block, attend(x, **given), **given)
    return family.block_end(block, transform(x), **given)


class BlockGraft(Graft):
    """A graft on a whole block.

    Kinds override ``attn_half`` or ``mlp_half`` and call ``super()``, so that any number of them adds up on one block,
    in any order. A norm that ends the block acts on the sum.
    """

    def note_input(self, x: Tensor) -> None:
        """Note what enters the block, before any graft changes it; most note nothing. Overrides call ``super()``."""

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        return attn_half(self, x, **kwargs)

    def mlp_half(self, x: Tensor) -> Tensor:
        return mlp_half(self, x)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return run_in_halves(self, *args, **kwargs)


class InHalves(BlockGraft):
    """A block that runs half by half for an ``OutputGraft`` at the end of them, and computes what it did."""

    adds_nothing = True
    token_wise = True

    def fold(self) -> None:
        """Nothing was added to the weights."""


def run_by_halves(block: Any) -> None:
    """Let ``block`` call ``add_to`` of what is grafted onto the end of its halves, where its norms keep the sums."""
    if family_of_block(block).has_input_norms and InHalves not in kinds(block):
        graft(block, InHalves)


def run_whole(block: Any) -> None:
    """Take back ``run_by_halves``, which changes nothing where no gradient is computed."""
    if InHalves in kinds(block):
        push_grafts(block, [entry for entry in pop_grafts(block) if entry[0] is not InHalves])


class TwoDropPaths(BlockGraft):
    """A block whose halves have a drop-path each where timm has one for both."""

    adds_nothing = True
    drop_path1: nn.Module
    drop_path2: nn.Module

    def fold(self) -> None:
        """Nothing was added to the weights."""
