"""Methods that act on transformer blocks, all of them or some: the field ``blocks`` that they share."""

import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.method import Method

WANTED = '"all", "first 4", "last 4", "2-5", or numbers from 0 such as [0, 3]'


@dataclass(frozen=True)
class BlockMethod(Method):
    """A method that tunes ``blocks`` of a backbone, which are counted from 0 over all stages.

    What stands in front of a block and behind the one before it (the patch embedding, Swin's patch merging) is tuned
    with that block, what stands behind the last block (the final norm) with the last. So nothing below the first tuned
    block needs a gradient, and training keeps nothing of it.
    """

    blocks: str | tuple[int, ...] = field(default="all", kw_only=True)  # "all", "first 4", "last 4", "2-5" or [0, 3]

    def __post_init__(self) -> None:
        check_blocks(self.blocks)

    def chosen_blocks(self, model: Any) -> list[Any]:
        """List the blocks of ``model`` that are tuned, in order of depth.

        Raises:
            ValueError: blocks that this backbone does not have, or not a family that methods can attach to.
        """
        return choose_blocks(self.blocks, blocks(model))

    def chosen_blocks_if_any(self, model: Any) -> list[Any]:
        """List the tuned blocks as ``chosen_blocks`` does; none of a model without blocks."""
        return self.chosen_blocks(model) if has_blocks(model) else []

    def chosen_modules(self, model: nn.Module) -> set[nn.Module]:
        """Return every module of ``model`` that is tuned where all its modules of a kind are: of and around the blocks.

        Raises:
            ValueError: as of ``chosen_blocks``.
        """
        if self.blocks == "all":
            return set(model.modules())
        every = blocks(model)
        chosen = set(self.chosen_blocks(model))
        next_block = dict(zip(every, [*every[1:], every[-1]], strict=True))
        owner, found = every[0], []
        for module in list_blocks_and_others(model, set(every)):
            if module in next_block:
                found += [module] * (module in chosen)
                owner = next_block[module]
            elif owner in chosen:
                found.append(module)
        return {inner for module in found for inner in module.modules()}


def check_blocks(chosen: str | tuple[int, ...], name: str = "blocks") -> None:
    """Check a choice of blocks as far as that is possible without a backbone.

    Raises:
        ValueError: it is written otherwise, or holds none, one twice or one below 0.
    """
    if isinstance(chosen, tuple):
        if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
            raise ValueError(f"{name} must be distinct numbers from 0, at least one; got {list(chosen)}")
    elif (span := _span(chosen)) is None:
        raise ValueError(f"{name} must be {WANTED}; got {chosen!r}")
    elif span[0] > span[1]:
        raise ValueError(f"{name} must hold at least one and run upwards; got {chosen!r}")


def choose_blocks(chosen: str | tuple[int, ...], every: list[Any], name: str = "blocks") -> list[Any]:
    """List the ``chosen`` ones of all blocks, in order of depth.

    Raises:
        ValueError: blocks beyond the depth.
    """
    depth = len(every)
    if isinstance(chosen, tuple):
        numbers = sorted(chosen)
    else:
        span = _span(chosen)
        assert span is not None, chosen
        first, last = (0, depth - 1) if chosen == "all" else span
        numbers = range(first, last + 1)
        if chosen.startswith("last"):
            numbers = range(depth - 1 - last, depth - first)
    if numbers[0] < 0 or numbers[-1] >= depth:
        shown = chosen if isinstance(chosen, str) else list(chosen)
        raise ValueError(f"{name}={shown!r}, but this backbone has {depth} blocks (0 to {depth - 1})")
    return [every[number] for number in numbers]


def _span(text: str) -> tuple[int, int] | None:
    """Return the first and last of what ``text`` names, from the end for "last"; None where it is written otherwise."""
    if text == "all":
        return 0, 0
    if found := re.fullmatch(r"(?:first|last) ([0-9]{1,6})", text):
        return 0, int(found[1]) - 1
    if found := re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", text):
        return int(found[1]), int(found[2])
    return None


def list_blocks_and_others(module: nn.Module, every: set[nn.Module]) -> list[nn.Module]:
    """List the blocks and the largest modules that hold none, in order of registration, which is timm's of depth."""
    found = []
    for child in module.children():
        if child in every or not any(inner in every for inner in child.modules()):
            found.append(child)
        else:
            found += list_blocks_and_others(child, every)
    return found
