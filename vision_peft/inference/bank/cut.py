"""Cutting a batch by task at a module: each part goes through the grafts of its task, the frozen layer sees them all.

What a module computes without grafts is computed once, for the rows of all tasks whose grafts call ``super()`` on the
input as it came (LoRA, AdaptFormer, SSF, ...); these then find it made. Tasks that change the input first, or have
weights of their own, run their own module on their rows. Which of the two a graft does is seen the first time it runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning.blocks import BlockGraft, attn_half, mlp_half
from vision_peft.tuning.graft import Graft

Task = int  # number of an adapter in a bank, never used twice
Module = Callable[[Tensor], Tensor]


class Shortcut:
    """What the frozen module makes of the rows of one task: ``made`` of ``given``, where it is known already."""

    def __init__(self) -> None:
        self.given: Tensor | None = None
        self.context: Mapping[str, Any] = {}
        self.made: Tensor | None = None
        self.asked = False

    def find(self, x: Tensor, context: Mapping[str, Any]) -> Tensor | None:
        """Return what is made of ``x``; None where it is not known, or ``x`` or the other arguments are not as given.

        That it could have been asked for is noted.
        """
        same = context.keys() == self.context.keys() and all(self.context[key] is context[key] for key in context)
        if x is not self.given or not same:
            return None
        self.asked = True
        return self.made


class FromShortcut(Graft):
    """Innermost graft of a task's module."""

    bank_shortcut: Shortcut

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = self.bank_shortcut.find(x, _context(args, kwargs))
        return super().forward(x, *args, **kwargs) if made is None else made


class BlockFromShortcut(BlockGraft):
    """Innermost graft of a task's block, for both halves."""

    bank_shortcut: Shortcut

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        made = self.bank_shortcut.find(x, kwargs)
        return super().attn_half(x, **kwargs) if made is None else made

    def mlp_half(self, x: Tensor) -> Tensor:
        made = self.bank_shortcut.find(x, {})
        return super().mlp_half(x) if made is None else made


@dataclass
class View:
    """The module of one task at one seat: it shares what is frozen."""

    module: nn.Module
    shortcut: Shortcut | None  # None: weights or attributes are the task's own, the frozen module tells nothing
    joins: dict[str, bool] = field(default_factory=dict)  # by half: whether its grafts ask the frozen module as it is

    @property
    def joined(self) -> bool:
        """Whether the frozen module works for it in some half."""
        return any(self.joins.values())


class Plan:
    """Whose rows stand in the batch now: (task, images), in order. What runs inside an outer cut sees fewer."""

    def __init__(self) -> None:
        self.segments: Sequence[tuple[Task, int]] = ()
        self.widths: dict[Task, int] = {}  # of outputs that were filled up to the widest, by task

    @contextmanager
    def only(self, segments: Sequence[tuple[Task, int]]) -> Iterator[None]:
        """Have the batch hold these rows inside a ``with`` block."""
        before, self.segments = self.segments, segments
        try:
            yield
        finally:
            self.segments = before


class Cut(Graft):
    """A module of the backbone that hands the rows of some tasks to their own modules."""

    bank_views: dict[Task, View]
    bank_plan: Plan

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        frozen = super().forward
        return _cut(
            self.bank_plan,
            self.bank_views,
            x,
            lambda rows: frozen(rows, *args, **kwargs),
            lambda module: lambda rows: module(rows, *args, **kwargs),
            ("forward", _context(args, kwargs)),
        )


class CutBlock(BlockGraft):
    """A block of the backbone, cut half by half."""

    bank_views: dict[Task, View]
    bank_plan: Plan

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        frozen = partial(super().attn_half, **kwargs)

        def own(block: nn.Module) -> Module:
            return partial(block.attn_half if isinstance(block, BlockGraft) else partial(attn_half, block), **kwargs)

        return _cut(self.bank_plan, self.bank_views, x, frozen, own, ("attn", kwargs))

    def mlp_half(self, x: Tensor) -> Tensor:
        def own(block: nn.Module) -> Module:
            return block.mlp_half if isinstance(block, BlockGraft) else partial(mlp_half, block)

        return _cut(self.bank_plan, self.bank_views, x, super().mlp_half, own, ("mlp", {}))


def _context(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**{str(place): value for place, value in enumerate(args)}, **kwargs}


def _cut(
    plan: Plan,
    views: Mapping[Task, View],
    x: Tensor,
    frozen: Module,
    own: Callable[[nn.Module], Module],
    call: tuple[str, Mapping[str, Any]],
) -> Tensor:
    segments = plan.segments
    if not any(task in views for task, _ in segments):
        return frozen(x)
    half, context = call
    parts = _split(x, segments)
    made: list[Tensor | None] = []
    whole: Tensor | None = None
    for joins, run in _runs(segments, views, half):
        if joins:
            with plan.only(run):
                start = sum(len(part) for part in parts[: len(made)])
                rows = sum(len(part) for part in parts[len(made) : len(made) + len(run)])
                found = frozen(x if rows == len(x) else x[start : start + rows])
            made += _split(found, run)
            whole = found if rows == len(x) else None
        else:
            made += [None] * len(run)
    outputs: list[Any] = []
    for (task, _), part, ready in zip(segments, parts, made, strict=True):
        view = views.get(task)
        outputs.append(ready if view is None else _run(view, part, ready, own(view.module), half, context))
    if whole is not None and _overwrite(whole, x, made, outputs):
        return whole
    return _join(plan, segments, outputs)


def _runs(
    segments: Sequence[tuple[Task, int]], views: Mapping[Task, View], half: str
) -> Iterator[tuple[bool, list[tuple[Task, int]]]]:
    """Cut the segments into runs of those that take what the frozen module makes, and of those that do not."""
    for joins, run in groupby(segments, key=lambda segment: _joins(views.get(segment[0]), half)):
        yield joins, list(run)


def _joins(view: View | None, half: str) -> bool:
    return view is None or (view.shortcut is not None and view.joins.get(half, False))


def _run(view: View, part: Tensor, made: Tensor | None, own: Module, half: str, context: Mapping[str, Any]) -> Tensor:
    shortcut = view.shortcut
    if shortcut is None:
        return own(part)
    shortcut.given, shortcut.context, shortcut.made, shortcut.asked = part, context, made, False
    try:
        return own(part)
    finally:
        view.joins[half] = shortcut.asked
        shortcut.given, shortcut.context, shortcut.made = None, {}, None


def _split(x: Tensor, segments: Sequence[tuple[Task, int]]) -> Sequence[Tensor]:
    """Cut along the first axis, which holds one or more rows of every image."""
    rows = x.shape[0] // sum(images for _, images in segments)
    return x.split([images * rows for _, images in segments])


def _overwrite(whole: Tensor, x: Tensor, made: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Write the tasks' outputs over what the frozen module made of all rows; whether that can be done."""
    changed = [(ready, output) for ready, output in zip(made, outputs, strict=True) if output is not ready]
    if changed and whole.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return False  # an Identity: others may read the input still
    if not all(ready.shape == output.shape and ready.dtype == output.dtype for ready, output in changed):
        return False
    for ready, output in changed:
        ready.copy_(output)
    return True


def _join(plan: Plan, segments: Sequence[tuple[Task, int]], outputs: list[Any]) -> Tensor:
    """Put outputs one below the other; those of narrower heads are filled up with zeros."""
    widest = max(output.shape[-1] for output in outputs)
    if all(output.shape[-1] == widest for output in outputs):
        return torch.cat(outputs)
    for (task, _), output in zip(segments, outputs, strict=True):
        plan.widths[task] = output.shape[-1]
    return torch.cat([nn.functional.pad(output, (0, widest - output.shape[-1])) for output in outputs])
