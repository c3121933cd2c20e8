"""Choose how a batch is computed so that it fits into memory, what changes nothing about the result first."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from vision_peft.config.schema import Recipe
from vision_peft.memory.predict import Choice, Prediction
from vision_peft.memory.sizes import format_memory

ENOUGH_ITEMS = 8  # of a part of a batch; smaller ones are taken where recomputing is not enough either


class DoesNotFit(ValueError):
    """No choice is predicted to stay within the limit."""


def list_choices(
    recipe: Recipe, modes: Sequence[str], precisions: Sequence[str], world_size: int, draws: bool
) -> Iterator[Choice]:
    """List what can be chosen, in the order in which it is tried.

    As the recipe says; then a batch in more parts, down to 8 items in one, before anything is recomputed, since parts
    cost no time; then smaller parts; all that in the next precision. Where a step draws random numbers or reads
    statistics of its batch (``draws``), parts would draw others: recomputing, which changes no bit, is tried first.
    """
    parts = list(_list_parts(recipe, world_size))
    own = [(recipe.accumulate, mode) for mode in modes] if draws else []
    large = [part for part in parts if recipe.batch_size // part // world_size >= ENOUGH_ITEMS] or parts[:1]
    order = own + [(part, mode) for some in (large, parts) for mode in modes for part in some]
    for precision in precisions:
        for part, mode in dict.fromkeys(order):
            yield Choice(part, mode, precision)


def _list_parts(recipe: Recipe, world_size: int) -> Iterator[int]:
    """List the numbers of parts that the recipe allows, from its own on."""
    for parts in range(recipe.accumulate, recipe.batch_size // world_size + 1):
        share, odd = divmod(recipe.batch_size, parts * world_size)
        if odd or ((recipe.mixup or recipe.cutmix) and share % 2):
            continue
        try:
            dataclasses.replace(recipe, accumulate=parts)
        except ValueError:
            continue
        yield parts


def choose(
    limit: int,
    choices: Sequence[Choice],
    predict: Callable[[Choice], Prediction],
    works: Callable[[Choice], bool] = lambda choice: True,
) -> tuple[Choice, Prediction]:
    """Return the first choice that is predicted to stay within ``limit`` bytes, and that ``works`` says yes to.

    Raises:
        DoesNotFit: there is none; the message names the smallest.
    """
    predictions: dict[Choice, Prediction] = {}
    for choice in choices:
        predictions[choice] = found = predict(choice)
        if found.total <= limit and works(choice):
            return choice, found
    smallest = min(predictions, key=lambda choice: predictions[choice].total)
    raise DoesNotFit(
        f"the smallest that works here is about {format_memory(predictions[smallest].total)} (a batch in "
        f"{smallest.accumulate} parts, recipe.recompute={smallest.recompute}, {smallest.precision}): "
        f"{predictions[smallest]}"
    )
