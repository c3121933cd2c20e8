"""Check the fields of a dataclass that a user fills in: their types by the annotations, their values by a few rules.

Methods, recipes, settings, backbones and datasets are all checked here, so that a wrong value is answered with the same
words wherever it was typed: what was wanted, what came. Nothing here imports torch.
"""

import functools
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.strict_json import LARGEST


class Checked:
    """Base of a dataclass whose fields are checked against their annotations before its own ``__post_init__`` runs.

    A single value stands for a tuple of it, and a list (of a YAML file) for a tuple: ``sites="attn"`` arrives as
    ``("attn",)``. A ``__post_init__`` of a subclass therefore meets values of the annotated types only.

    Raises:
        ValueError: values of other types; every one is named.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        check_values = cls.__dict__.get("__post_init__")
        if check_values is None:
            return

        @functools.wraps(check_values)
        def __post_init__(self: Any) -> None:
            check_types(self)
            check_values(self)

        setattr(cls, "__post_init__", __post_init__)  # noqa: B010 (a method no checker can see)

    def __post_init__(self) -> None:
        check_types(self)


def check_types(instance: Any) -> None:
    """Check every field of a dataclass instance against its annotation, and turn lists and single values into tuples.

    Raises:
        ValueError: values of other types; one line for each: field, what was wanted, what came.
    """
    hints = _hints(type(instance))
    problems = []
    for item in fields(instance):
        value = getattr(instance, item.name)
        try:
            fitted = _fit(value, hints[item.name])
        except TypeError:
            problems.append(f"{item.name} must be {describe(hints[item.name])}; got {_shown(value)}")
        else:
            if fitted is not value:
                object.__setattr__(instance, item.name, fitted)
    raise_all(problems)


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` may stand in a field annotated with ``hint``; numbers must be finite, a bool is no number."""
    try:
        _fit(value, hint)
    except TypeError:
        return False
    return True


def describe(hint: Any) -> str:
    """Say in words what an annotation accepts: ``a whole number or a list of text``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"{len(inner)} values ({', '.join(describe(kind) for kind in inner)})"
    if origin in (tuple, list):
        return f"a list of {describe(inner[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "none"}
    names |= {dict: "keys and values", Any: "anything"}
    kind = origin or hint
    return names.get(kind) or getattr(kind, "__name__", str(kind))


def raise_all(problems: Iterable[str | None]) -> None:
    """Raise one ValueError that lists all ``problems``, a line each; None stands for no problem.

    The functions below give such lines.
    """
    if found := [problem for problem in problems if problem]:
        raise ValueError("\n".join(printable(problem, LONGEST_LINE) for problem in found))


def choice(name: str, value: Any, choices: Iterable[Any]) -> str | None:
    """Describe the problem where ``value`` is not one of ``choices``."""
    choices = tuple(choices)
    return None if value in choices else f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}"


def at_least(name: str, value: float | None, lowest: float) -> str | None:
    """Describe the problem where a number is below ``lowest``; None, which means a default, is accepted."""
    return None if value is None or value >= lowest else f"{name} must be at least {lowest}, got {value}"


def above_zero(name: str, value: float | None) -> str | None:
    """Describe the problem where a number is not above 0; None, which means a default, is accepted."""
    return None if value is None or value > 0 else f"{name} must be above 0, got {value}"


def below_one(name: str, value: float | None) -> str | None:
    """Describe the problem where a number is below 0, or 1 and more; None, which means a default, is accepted."""
    return None if value is None or 0 <= value < 1 else f"{name} must be at least 0 and below 1, got {value}"


def share(name: str, value: float | None) -> str | None:
    """Describe the problem where a number is outside 0..1; None, which means a default, is accepted."""
    return None if value is None or 0 <= value <= 1 else f"{name} must be in 0..1, got {value}"


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fit(value: Any, hint: Any) -> Any:
    """Give ``value`` as the annotation wants it; TypeError where it is of another type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        fitted = [_fit(value, option) for option in inner if fits(value, option)]
        if fitted:  # unchanged where one option takes it as it is: a number for ``int | tuple[int, int]``
            return value if any(candidate is value for candidate in fitted) else fitted[0]
    elif origin is tuple:
        several = inner[-1] is Ellipsis
        values = value if isinstance(value, tuple | list) else (value,) * several
        hints = (inner[0],) * len(values) if several else inner
        if len(values) == len(hints):
            return _fit_each(values, hints)
    elif origin is list:
        if isinstance(value, tuple | list):
            return value if all(fits(entry, inner[0]) for entry in value) else _refuse(value)
    elif hint is float:
        if isinstance(value, float | int) and not isinstance(value, bool) and _is_kept(value) and math.isfinite(value):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool) and _is_kept(value):
            return value
    elif isinstance(value, Mapping if (origin or hint) is dict else origin or hint):
        return value
    return _refuse(value)


def _fit_each(values: tuple[Any, ...] | list[Any], hints: Iterable[Any]) -> tuple[Any, ...]:
    fitted = tuple(_fit(value, hint) for value, hint in zip(values, hints, strict=True))
    unchanged = isinstance(values, tuple) and all(new is old for new, old in zip(fitted, values, strict=True))
    return values if unchanged and isinstance(values, tuple) else fitted


def _refuse(value: Any) -> Any:
    raise TypeError(type(value).__name__)


def _is_kept(value: float) -> bool:
    """Whether the config.yaml and the rows of a run can hold a number, which they do in 64 bits."""
    return isinstance(value, float) or abs(value) < LARGEST


def _shown(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return f"{text}, which is beyond 64 bits" if type(value) is int and not _is_kept(value) else text
