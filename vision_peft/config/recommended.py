"""The recipe that methods recommend, for what the user leaves out. Free of torch."""

from collections.abc import Mapping, Sequence
from typing import Any

# Keys of the recipe that are null where the user gives none. Of several methods the most cautious value is taken.
_OF_SEVERAL = {"epochs": max, "lr": min, "weight_decay": min}
RECOMMENDED = tuple(_OF_SEVERAL)


def drop_left_out(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of a recipe without the keys whose value the methods are asked for."""
    return {key: value for key, value in section.items() if value is not None or key not in RECOMMENDED}


def recommend_recipe(methods: Sequence[Any]) -> dict[str, Any]:
    """Return what methods that are trained together recommend, by key of the recipe; what none does is left out."""
    given = {key: [method.recommended[key] for method in methods if key in method.recommended] for key in RECOMMENDED}
    return {key: choose(given[key]) for key, choose in _OF_SEVERAL.items() if given[key]}


def describe_recipe(recipe: Any, methods: Sequence[Any]) -> str:
    """Describe the settings that methods may recommend, and name those that are as recommended."""
    words = f"lr {recipe.lr:g}, {recipe.epochs} epochs, weight decay {recipe.weight_decay:g}"
    same = [key for key, value in recommend_recipe(methods).items() if getattr(recipe, key) == value]
    names = "+".join(method.name for method in methods)
    return f"{words} ({' and '.join(same)} as recommended for {names})" if same else words
