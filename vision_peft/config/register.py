"""Register methods and datasets that are classes of a user's own code, so that they are used like the built-in ones."""

import dataclasses
import inspect
import re
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore

from vision_peft.config.registered import REGISTERED
from vision_peft.data import DATASETS, DataConfig
from vision_peft.methods import METHODS
from vision_peft.tuning.method import Method

_Kind = TypeVar("_Kind", bound=type)


def register(kind: _Kind, /) -> _Kind:
    """Let a method or a dataset of your own be trained, saved, loaded, configured and listed like the built-in ones.

        @vp.register
        @dataclass(frozen=True)
        class Shift(vp.Method):
            name: ClassVar[str] = "shift"
            start: float = 0.0
            def attach(self, model): ...

    A method is then in ``vp.METHODS``, an attribute of the package, a name for ``method=shift`` in
    ``vp.training.compose_config`` with the defaults of its fields (no YAML file is needed), and adapters that record it
    load where it is registered. A dataset (a subclass of ``vision_peft.data.DataConfig``) is in
    ``vision_peft.data.DATASETS`` and a name for ``data=...``. Registering the same class again, as a notebook does,
    replaces it.

    Args:
        kind: a dataclass below ``vp.Method`` (frozen) or ``vision_peft.data.DataConfig`` with a ``name`` of its own:
            lower-case letters, digits and underscores.

    Returns:
        The class, so that ``register`` can stand above it as a decorator.

    Raises:
        TypeError: not such a class.
        ValueError: a name, or for a method a class name, that something else has already.
    """
    _register(kind)
    return kind


def _register(kind: Any) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Method | DataConfig)):
        raise TypeError(f"vp.register needs a subclass of vp.Method or vision_peft.data.DataConfig, got {kind!r}")
    words = f"{kind.__module__}.{kind.__qualname__}"
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise TypeError(f"{words} cannot be registered: it does not define {missing}")
    if "__dataclass_params__" not in vars(kind):
        raise TypeError(f"{words} is not a dataclass: put @dataclass(frozen=True) between @vp.register and the class")
    name: Any = vars(kind).get("name")
    if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name)):
        raise TypeError(
            f'{words} needs a name of its own: name: ClassVar[str] = "..." of lower-case letters, digits, underscores; '
            f"got {name!r}"
        )
    known: dict[str, Any] = METHODS if issubclass(kind, Method) else DATASETS
    group = "method" if issubclass(kind, Method) else "data"
    for other_name, other in known.items():
        again = other is REGISTERED[group].get(other_name) and f"{other.__module__}.{other.__qualname__}" == words
        if not again and name == other_name:
            raise ValueError(f"the name {name!r} is taken by {other.__module__}.{other.__qualname__}: give another one")
        if not again and group == "method" and kind.__name__ == other.__name__:
            raise ValueError(f"the class name {kind.__name__} is taken by {other.__module__}: give another one")
    known[name] = REGISTERED[group][name] = kind
    in_order = dict(sorted(known.items()))
    known.clear()
    known.update(in_order)  # the same dict: others hold it
    ConfigStore.instance().store(group=group, name=name, node={"name": name, **_defaults(kind)})


def _defaults(kind: Any) -> dict[str, Any]:
    """Return the defaults of a dataclass as a config file would hold them; ``???`` where one has to be given."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if item.default is not dataclasses.MISSING:
            value = item.default
        else:
            value = "???" if item.default_factory is dataclasses.MISSING else item.default_factory()
        found[item.name] = list(value) if isinstance(value, tuple) else value
    return found
