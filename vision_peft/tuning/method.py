"""The abstract method: a frozen dataclass of hyper-parameters that knows how to attach itself to a backbone."""

import math
import types
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from torch import nn


@dataclass(frozen=True)
class Method(ABC):
    """Hyper-parameters of one way to tune a frozen backbone.

    A subclass is a frozen dataclass whose fields are what a user types (``method.bottleneck=8``); choices are plain
    strings checked in ``__post_init__``. It sets ``name``, which is also the name of its config file.
    """

    name: ClassVar[str]
    video: ClassVar[bool] = False  # works on the frames of clips, which image models do not have

    def __init_subclass__(cls) -> None:
        # Before a subclass checks its values, their types are checked, so that no __post_init__ has to.
        check_values = cls.__dict__.get("__post_init__")

        def __post_init__(self: Method) -> None:
            _check_types(self)
            if check_values is not None:
                check_values(self)

        if check_values is not None or "__post_init__" not in dir(cls):
            setattr(cls, "__post_init__", __post_init__)  # noqa: B010 (a method no checker can see)

    @property
    def starts_as_identity(self) -> bool:
        """Whether the tuned model computes the pretrained function until the first training step."""
        return False

    @property
    def changes_features(self) -> bool:
        """Whether more than the head learns; parts of a backbone that train with every method do so only then."""
        return True

    @property
    def samples_per_class(self) -> int:
        """Images of every class from which the method initialises itself; 0: it takes none."""
        return 0

    def baked(self) -> "Method":
        """The method that the model has after ``bake``: without training-time re-parametrisation."""
        return self

    def initialise(self, model: nn.Module, samples: Iterable[Any] | None) -> None:  # noqa: B027 (optional)
        """Set start values that come from data, after ``attach``; ``samples`` as given to ``vp.attach``.

        Raises:
            ValueError: the data does not fit, with the reason. Nothing has to be undone.
        """

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Graft onto ``model``, whose parameters are frozen already; what is added or unfrozen here trains.

        Raises:
            ValueError: this method does not fit this backbone, with the reason. Nothing has to be undone.
        """


def _check_types(method: Method) -> None:
    hints = get_type_hints(type(method))
    problems = [
        f"{item.name} must be {_words(hints[item.name])}; got {getattr(method, item.name)!r}"
        for item in fields(method)
        if not _fits(getattr(method, item.name), hints[item.name])
    ]
    if problems:
        raise ValueError("\n".join(problems))


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is tuple:  # one value alone stands for a tuple of it; a config hands over a list
        values = value if isinstance(value, tuple | list) else [value]
        return all(_fits(entry, inner[0]) for entry in values)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in inner)
    if origin is tuple:
        return f"a list of {_words(inner[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def as_tuple(value: Any) -> tuple[Any, ...]:
    """The values of a field that takes several: a config hands over a list, a user may name just one."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def one_of(field: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check a hyper-parameter against its choices.

    Raises:
        ValueError: ``value`` is none of ``choices``.
    """
    if value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def some_of(field: str, values: tuple[Any, ...], choices: tuple[Any, ...]) -> None:
    """Check a hyper-parameter that names one or more of its choices, each once.

    Raises:
        ValueError: ``values`` is empty, repeats itself or holds something else.
    """
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{field} must be distinct and at least one of {', '.join(map(repr, choices))}; got {values}")
    for value in values:
        one_of(field, value, choices)


def positive(**fields: int | float) -> None:
    """Check that hyper-parameters are numbers above zero.

    Raises:
        ValueError: one of them is not.
    """
    for field, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{field} must be a number above 0; got {value!r}")


def probability(**fields: float) -> None:
    """Check that dropout rates lie in [0, 1).

    Raises:
        ValueError: one of them does not.
    """
    for field, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"{field} must lie in [0, 1); got {value!r}")
