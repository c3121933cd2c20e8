"""Timm's architectures, one family a file. A file in this folder is a family by existing; nothing else lists it."""

import importlib
import inspect
import pkgutil
from typing import Any

from vision_peft.tuning.families.family import Family
from vision_peft.tuning.families.flat import FlatFamily


def _find() -> tuple[Family, ...]:
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Family) and value.__module__ == module.__name__ and not inspect.isabstract(value):
                found.append(value())
    return tuple(sorted(found, key=lambda family: family.covers_the_rest))


FAMILIES: tuple[Family, ...] = _find()


def family_of(model: Any) -> Family:
    """Find the family of a timm model.

    Raises:
        ValueError: not a family that methods can attach to.
    """
    for family in FAMILIES:
        if family.covers(model):
            return family
    examples = dict.fromkeys(name for family in FAMILIES for name in family.examples.split(", "))
    raise ValueError(
        f"cannot attach to {type(model).__name__}: wanted a model of timm with a classification layer and layers in "
        f"front of it ({', '.join(examples)})"
    )


def flat_family_of(model: Any) -> FlatFamily:
    """Find the family of a timm model whose tokens are one sequence.

    Raises:
        ValueError: another family, or not a family that methods can attach to.
    """
    family = family_of(model)
    if not isinstance(family, FlatFamily):
        raise ValueError(
            f"{type(model).__name__} has no sequence that input prompts could join: use deep prompts (VPT with "
            "deep=True)"
        )
    return family


def family_of_block(block: Any) -> Family:
    """Find the family of a transformer block.

    Raises:
        ValueError: a block of a class that methods cannot split in its halves.
    """
    for family in FAMILIES:
        if isinstance(block, family.block_classes):
            return family
    classes = [f"{kind.__module__}.{kind.__name__}" for family in FAMILIES for kind in family.block_classes]
    raise ValueError(
        f"cannot attach to blocks of class {type(block).__name__}: only blocks with one attention and one MLP in "
        f"sequence can be split ({', '.join(classes)})"
    )


def family_of_attention(attn: Any) -> Family:
    """Find the family of an attention layer.

    Raises:
        ValueError: attention of a class that extra keys and values cannot join.
    """
    for family in FAMILIES:
        if isinstance(attn, family.attention_classes):
            return family
    classes = [kind.__name__ for family in FAMILIES for kind in family.attention_classes]
    raise ValueError(
        f"extra keys and values cannot join {type(attn).__name__}: wanted plain softmax attention "
        f"({', '.join(classes)})"
    )
