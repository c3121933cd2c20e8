"""Grafting: give one module of a backbone a subclass that adds a method's term, and take it away again.

A grafted module keeps its identity, its parameters and their names; only its class changes, to a generated subclass
``(kind, class it had)``. Whatever sees the model (``state_dict``, ``torch.compile``, DDP, gradient checkpointing,
``deepcopy``, ``pickle``) sees an ordinary module. This file is the one place that touches ``module.__class__``.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn


class Graft(nn.Module):
    """First base of every graft.

    A graft is final, has no ``__init__`` and overrides ``forward`` (block grafts: one of the halves, see
    ``blocks.BlockGraft``), calling ``super()`` once so that grafts on one module add up in any order. It may keep what
    it was called on (and drops it in ``forget``), not what ``super()`` returned: a bank writes over that.
    """

    # Whether its module gives what it would without it, and need not run for anything else: of what the module gets it
    # notes the size alone. Frozen blocks that carry no others may be left out (``frozen_part``).
    adds_nothing: ClassVar[bool] = False

    # Whether a method put it on; others change how the module computes what it computes anyway, and come and go alone.
    of_method: ClassVar[bool] = True

    # Whether it works where ``super()`` gives the first tokens alone, or it is called on these: what it adds to a token
    # it makes of this token, or of what ``super()`` gave for it. Others keep the last block whole (``short_block``).
    token_wise: ClassVar[bool] = False

    def prepare_fold(self) -> None:
        """Note what ``fold`` needs of weights as they are before anything of the model folds; most need nothing."""

    def fold(self) -> None:
        """Add this graft's term to the weights of the module it sits on.

        Raises:
            ValueError: the term is not a constant update of the weights.
        """
        raise ValueError(f"{type(self).__name__} is not a constant update of the weights it sits on")

    def bake(self) -> dict[str, Tensor | nn.Module | None]:
        """Compute this graft's children without their training-time re-parametrisation.

        By name of the child: the constant or new module that takes its place, or None where nothing does. Children
        that are no re-parametrisation are left out.
        """
        return {}

    def forget(self) -> None:
        """Drop what the last forward left on this graft; most leave nothing."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # A generated class cannot be found by name: pickle and deepcopy get the importable classes it is made of.
        base, kinds = _chain(type(self))
        return _rebuild, (base, *kinds), self.__getstate__()


class HeadGraft(Graft):
    """A graft that belongs to the classification head and not to a method: it brings the head what that reads.

    It is the innermost one of its module, adds nothing to the weights and stays while methods are disabled.
    """


class OutputGraft(Graft):
    """A graft on the last module of a half of a block, which may add to the residual stream by itself."""

    def add_to(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute ``x + self(y)`` for the residual stream ``x`` and the output ``y`` of attention or MLP."""
        return x + self(y)


@dataclass
class _Layer:
    """What one graft or override added to a module, so that it can be taken away exactly."""

    kind: type[Graft] | None
    children: tuple[str, ...] = ()
    originals: dict[str, Any] = field(default_factory=dict)
    added: tuple[str, ...] = ()  # attributes that the module had of its class only


@functools.cache
def _grafted(kind: type[Graft], base: type[nn.Module]) -> type[nn.Module]:
    plain, inner = _chain(base)
    last_word = re.sub(r".*(?=[A-Z])", "", plain.__name__)  # AdaptFormerBlock on a Block reads Block[AdaptFormer]
    names = ", ".join(each.__name__.removesuffix(last_word) or each.__name__ for each in [*inner, kind])
    identifier = "".join(each.__name__ for each in [plain, *inner, kind])  # TorchScript takes no brackets
    attributes = {"_generated": True, "_jit_override_qualname": f"__torch__.{__name__}.{identifier}"}
    return type(f"{plain.__name__}[{names}]", (kind, base), attributes)


def _chain(cls: type[nn.Module]) -> tuple[type[nn.Module], list[type[Graft]]]:
    kinds: list[Any] = []
    while "_generated" in cls.__dict__:
        kind, cls = cls.__bases__
        kinds.append(kind)
    return cls, kinds[::-1]


def _rebuild(base: type[nn.Module], *kinds: type[Graft]) -> nn.Module:
    cls = functools.reduce(lambda inner, kind: _grafted(kind, inner), kinds, base)
    return cls.__new__(cls)


def _layers(module: nn.Module) -> list[_Layer]:
    return module.__dict__.get("_graft_layers", [])


def kinds(module: nn.Module) -> list[type[Graft]]:
    """Kinds grafted onto ``module``, innermost first."""
    return _chain(type(module))[1]


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of ``module`` without what is grafted onto it."""
    return _chain(type(module))[0]


def graft(module: nn.Module, kind: type[Graft], **children: Any) -> None:
    """Turn ``module`` into ``kind`` in place; ``children`` (modules, parameters, constants) become its attributes.

    Child modules take the mode of ``module``: nothing drops out of a model in eval mode because it was attached to.

    Raises:
        ValueError: the module already carries this kind, or has an attribute of one of the names.
    """
    if kind in kinds(module):
        raise ValueError(f"{kind.__name__} is already attached to this {_chain(type(module))[0].__name__}")
    taken = [name for name in children if hasattr(module, name)]
    if taken:
        raise ValueError(f"{type(module).__name__} already has {taken}: {kind.__name__} needs these names")
    module.__dict__.setdefault("_graft_layers", []).append(_Layer(kind, tuple(children)))
    module.__class__ = _grafted(kind, type(module))
    for name, child in children.items():
        setattr(module, name, child)
        if isinstance(child, nn.Module):
            child.train(module.training)


def override(module: nn.Module, **attributes: Any) -> None:
    """Set plain attributes of ``module`` that ``ungraft`` restores (``num_prefix_tokens``, ``qkv_bias_separate``).

    Raises:
        AttributeError: the module has no such attribute.
    """
    for name in attributes:
        getattr(module, name)
    originals = {name: module.__dict__[name] for name in attributes if name in module.__dict__}
    added = tuple(name for name in attributes if name not in originals)
    module.__dict__.setdefault("_graft_layers", []).append(_Layer(None, originals=originals, added=added))
    for name, value in attributes.items():
        setattr(module, name, value)


def original(module: nn.Module, name: str) -> Any:
    """Return the attribute ``name`` of ``module`` as it was before any ``override``."""
    for layer in _layers(module):
        if name in layer.originals:
            return layer.originals[name]
        if name in layer.added:
            return getattr(type(module), name)
    return getattr(module, name)


def ungraft(module: nn.Module, keep: int = 0) -> None:
    """Take grafts and overrides off ``module``, newest first, until ``keep`` of them are left."""
    layers = _layers(module)
    while len(layers) > keep:
        layer = layers.pop()
        if layer.kind is not None:
            for name in layer.children:
                delattr(module, name)
            module.__class__ = type(module).__bases__[1]
        for name, value in layer.originals.items():
            setattr(module, name, value)
        for name in layer.added:
            delattr(module, name)
    if not layers:
        module.__dict__.pop("_graft_layers", None)


# Kind (None: an override) and attributes of what was popped, innermost first.
PoppedGrafts = list[tuple[type[Graft] | None, dict[str, Any]]]


def pop_grafts(module: nn.Module) -> PoppedGrafts:
    """Take all grafts and overrides off ``module`` and return them, for ``push_grafts``."""
    popped: PoppedGrafts = []
    while layers := _layers(module):
        layer = layers[-1]
        names = (*layer.children, *layer.originals, *layer.added)
        popped.append((layer.kind, {name: getattr(module, name) for name in names}))
        ungraft(module, keep=len(layers) - 1)
    return popped[::-1]


def push_grafts(module: nn.Module, popped: PoppedGrafts) -> None:
    """Put the grafts and overrides that ``pop_grafts`` returned on a ``module`` without any."""
    for kind, attributes in popped:
        if kind is None:
            override(module, **attributes)
        else:
            graft(module, kind, **attributes)


def graft_innermost(module: nn.Module, kind: type[Graft], **children: Any) -> None:
    """Do as ``graft``, in front of all that is grafted onto ``module`` already."""
    popped = pop_grafts(module)
    graft(module, kind, **children)
    push_grafts(module, popped)


def split_head_grafts(popped: PoppedGrafts) -> tuple[PoppedGrafts, PoppedGrafts]:
    """Split what was popped into the grafts of the head and those of methods, each innermost first."""
    of_head = [entry for entry in popped if entry[0] is not None and issubclass(entry[0], HeadGraft)]
    return of_head, [entry for entry in popped if entry not in of_head]


def depth(module: nn.Module) -> int:
    """Count the grafts and overrides on ``module``, as ``ungraft(module, keep=...)`` does."""
    return len(_layers(module))


def grafts(model: nn.Module) -> Iterator[tuple[str, Graft]]:
    """Every module of ``model`` that methods grafted something onto, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, Graft) and any(each.kind and each.kind.of_method for each in _layers(module)):
            yield name, module


def children(module: nn.Module, since: int = 0) -> list[tuple[str, nn.Module | nn.Parameter]]:
    """Modules and parameters that grafts beyond the first ``since`` added to ``module``; constants are left out."""
    names = [name for layer in _layers(module)[since:] for name in layer.children]
    found = [(name, getattr(module, name)) for name in names]
    return [(name, child) for name, child in found if isinstance(child, nn.Module | nn.Parameter)]
