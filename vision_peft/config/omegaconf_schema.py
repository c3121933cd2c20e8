"""The dataclasses of the config in types that OmegaConf can hold."""

import functools
import types
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


@functools.cache
def omegaconf_schema(cls: type) -> type:
    """Make a non-frozen dataclass with the fields and defaults of ``cls`` in types that OmegaConf can hold.

    Hydra cannot override a frozen node, and OmegaConf knows neither tuples of unknown length as the default of a list
    nor unions with containers: tuples and lists become ``list[Any]``, lists of words and other unions ``Any``. What the
    schema lets through, the ``__post_init__`` of ``cls`` checks.
    """
    hints = get_type_hints(cls)
    specifications = []
    for item in fields(cls):
        if item.default is MISSING and item.default_factory is MISSING:
            specifications.append((item.name, _plain(hints[item.name]), field(default="???")))
        else:
            specifications.append((item.name, _plain(hints[item.name]), field(default_factory=_default(item))))
    return make_dataclass(f"{cls.__name__}Schema", specifications)


def _default(item: Any) -> Any:
    value = item.default_factory() if item.default is MISSING else item.default
    return lambda: list(value) if isinstance(value, tuple) else value


def _plain(hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple and inner == (str, ...):
        return Any  # a single word stands for a list of it, as in Python
    if origin in (tuple, list) or hint in (tuple, list):
        return list[Any]
    if origin is dict or hint is dict:
        return dict[str, Any]
    if origin in (types.UnionType, Union):
        options = [option for option in inner if option is not types.NoneType]
        if len(options) == 1 and len(inner) == 2 and _plain(options[0]) is not Any:
            return _plain(options[0]) | None
        return Any
    return hint if hint in (int, float, bool, str) else Any
