"""The blocks of a tuned model below everything that trains: run once, then stood in for by what they gave.

No family splits its forward pass for that. Where a model goes on from kept tokens, timm's own forward runs with a
blank image; the frozen blocks and what stands in front of them are grafted to answer with constants, and the last of
them with the kept tokens. So whatever else a block is given (rotary embeddings, a shared bias, the size of the map)
comes from timm as ever.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning.backbone import classifier_names, has_blocks
from vision_peft.tuning.block_method import list_blocks_and_others
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.graft import Graft, HeadGraft, depth, graft, kinds, ungraft

PROBES = 2  # blank images by which is found what runs in which order


class NotConstant(Exception):
    """The frozen blocks cannot be left out; the message says why."""


class _Reached(Exception):
    """The last frozen block has answered: nothing behind it need run."""


@dataclass
class _Handover:
    """The tokens (B ...) with which a forward pass goes on."""

    tokens: Tensor | None = None


class FromTokens(Graft):
    """A model that is given, in place of images, what its last frozen block made of them."""

    blank: Tensor  # an image (1 ...)
    handover: _Handover
    part: "FrozenPart"

    def forward(self, tokens: Tensor) -> Any:
        self.handover.tokens = self.part.restore(tokens)
        return super().forward(self.blank.expand(len(tokens), *self.blank.shape[1:]))


class StandIn(Graft):
    """A module that answers for every image with the same constant (1 ...), and with what else it gave beside it."""

    answer: Tensor
    answer_rows: int  # for each row that the module is given: frames of a clip where it takes these apart
    answer_beside: tuple[Any, ...] | None  # None: it gives a tensor, not a tuple

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = self.answer.expand(self.answer_rows * len(x), *self.answer.shape[1:])
        return _put_together(answer, self.answer_beside)


class LastStandIn(Graft):
    """The last frozen block, which answers with the tokens that are handed over."""

    handover: _Handover
    answer_beside: tuple[Any, ...] | None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return _put_together(self.handover.tokens, self.answer_beside)


@dataclass
class _Answer:
    """What a module gave for images: a tensor (B ...), alone or with others that are no tensors behind it."""

    tensor: Tensor
    rows: int  # for each row that it was given
    beside: tuple[Any, ...] | None


@dataclass(frozen=True)
class FrozenPart:
    """The first blocks of a model, in and in front of which nothing trains."""

    blocks: list[Any]
    blank: Tensor  # an image or clip (1 ...)
    rows: int  # of what the last block gives, for each image; frames of a clip where blocks see one at a time
    answers: dict[nn.Module, _Answer] = field(repr=False)  # for it, of the blocks and of what runs in front of them

    @property
    def last_answer(self) -> Tensor:
        """What the last of the blocks makes of a blank image (or of a frame of a blank clip), (1 ...)."""
        return self.answers[self.blocks[-1]].tensor

    @property
    def tokens(self) -> Tensor:
        """What ``run`` returns for a blank image (1 ...)."""
        return self._keep(self.last_answer.expand(self.rows, *self.last_answer.shape[1:]))

    @property
    def _axes(self) -> list[int]:
        """Axes by their order in memory, images first: sums over a tensor that lies otherwise round otherwise."""
        strides = self.last_answer.stride()
        return [0, *sorted(range(1, len(strides)), key=lambda axis: -strides[axis])]

    def _keep(self, tokens: Tensor) -> Tensor:
        tokens = tokens.permute(self._axes).contiguous()
        return tokens if self.rows == 1 else tokens.unflatten(0, (-1, self.rows))

    def restore(self, tokens: Tensor) -> Tensor:
        """Return what ``run`` returned, in whatever type and layout it was kept, as the next block is given it."""
        axes, tokens = self._axes, tokens.contiguous().to(self.last_answer.dtype)
        tokens = tokens if self.rows == 1 else tokens.flatten(0, 1)
        return tokens.permute([axes.index(axis) for axis in range(len(axes))])

    @torch.no_grad()
    def run(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return what the last of the blocks makes of images (B ...), its axes in the order of the memory.

        Of clips that are seen frame by frame it is (B T ...).
        """
        found: list[Tensor] = []

        def keep(module: nn.Module, args: Any, answer: Any) -> None:
            found.append(answer[0] if isinstance(answer, tuple) else answer)
            raise _Reached

        hook = self.blocks[-1].register_forward_hook(keep)
        try:
            with contextlib.suppress(_Reached):
                model(images)
        finally:
            hook.remove()
        return self._keep(found[0])

    @contextlib.contextmanager
    def left_out(self, model: nn.Module) -> Iterator[None]:
        """Let `model` take what ``run`` returned in place of images, inside."""
        handover, last = _Handover(), self.blocks[-1]
        layers = {module: depth(module) for module in (model, *self.answers)}
        try:
            for module, answer in self.answers.items():
                if module is not last:
                    graft(
                        module,
                        StandIn,
                        answer=answer.tensor,
                        answer_rows=answer.rows,
                        answer_beside=answer.beside,
                    )
            graft(last, LastStandIn, handover=handover, answer_beside=self.answers[last].beside)
            graft(model, FromTokens, blank=self.blank, handover=handover, part=self)
            yield
        finally:
            for module, number in layers.items():
                ungraft(module, keep=number)


@torch.no_grad()
def find_frozen_part(model: nn.Module, blank: Tensor) -> FrozenPart | None:
    """Find the blocks of ``model``, in eval mode, in and in front of which nothing trains and nothing is attached.

    Args:
        blank: an image (1 C H W) of zeros, of the size and on the device of those that the model gets.

    Returns:
        None where there are none: something that trains acts in the first block, or on what enters it.

    Raises:
        NotConstant: there are some, but what the last one gives is not all that the model goes on from.
    """
    if not has_blocks(model):
        return None
    every = blocks(model)
    units = [part for unit in list_blocks_and_others(model, set(every)) for part in _list_called(unit)]
    acting = _find_acting(model, units)
    if model in acting or every[0] in acting:
        return None
    order, answers = _trace(model, [*units, *(acting - set(units))], blank.expand(PROBES, *blank.shape[1:]))
    frozen = []
    for module in order:
        if module in acting:
            break
        if module in set(every):
            frozen.append(module)
    if not frozen:
        return None
    if frozen != every[: len(frozen)] or not acting <= set(order):
        raise NotConstant(f"this {type(model).__name__} does not call its parts one by one, each once")
    ahead = order[: order.index(frozen[-1]) + 1]
    found = {module: answer for module in ahead if (answer := answers.get(module)) is not None}
    if not found.keys() >= set(frozen):
        raise NotConstant(f"the blocks of this {type(model).__name__} do not give one tensor with rows for each image")
    rows = len(found[frozen[-1]].tensor) // PROBES
    one = {module: replace(answer, tensor=answer.tensor[:1].clone()) for module, answer in found.items()}
    return FrozenPart(frozen, blank, rows, one)


def _find_acting(model: nn.Module, units: list[nn.Module]) -> set[nn.Module]:
    """Find the units, and of the modules that hold them those themselves, that train or carry a graft of a method."""
    of_head = {module for name in classifier_names(model) for module in model.get_submodule(name).modules()}
    inside = {module for unit in units for module in unit.modules()}
    acting = {unit for unit in units if any(_acts(module) for module in unit.modules() if module not in of_head)}
    return acting | {module for module in model.modules() if module not in inside | of_head and _acts(module)}


def _list_called(unit: nn.Module) -> list[nn.Module]:
    """List the modules of a list, which is not called itself; of others that one."""
    return list(unit.children()) if isinstance(unit, nn.ModuleList) else [unit]


def _acts(module: nn.Module) -> bool:
    """Tell whether a module has parameters that train, or anything of a method on it, which may read what it gets."""
    harmless = sum(issubclass(kind, HeadGraft) or kind.adds_nothing for kind in kinds(module))
    trains = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    return trains or depth(module) > harmless


def _trace(
    model: nn.Module, modules: list[nn.Module], images: Tensor
) -> tuple[list[nn.Module], dict[nn.Module, _Answer | None]]:
    """Return which modules the model calls in which order, each at its first call, and what they make of the images.

    None is for one that is called more than once, or not on something with a row for each image.
    """
    order: list[nn.Module] = []
    answers: dict[nn.Module, _Answer | None] = {}

    def enter(module: nn.Module, args: Any) -> None:
        if module not in order:
            order.append(module)

    def leave(module: nn.Module, args: Any, answer: Any) -> None:
        reads = bool(args) and isinstance(args[0], Tensor) and len(args[0]) % len(images) == 0
        first = module not in answers
        answers[module] = _take_apart(answer, len(args[0])) if reads and first else None

    hooks = [module.register_forward_pre_hook(enter) for module in modules]
    hooks += [module.register_forward_hook(leave) for module in modules]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return order, answers


def _take_apart(answer: Any, given: int) -> _Answer | None:
    tensor, *beside = answer if isinstance(answer, tuple) else (answer,)
    fits = isinstance(tensor, Tensor) and tensor.ndim > 1 and len(tensor) >= given and len(tensor) % given == 0
    if not fits or any(isinstance(each, Tensor) for each in beside):
        return None
    return _Answer(tensor, len(tensor) // given, tuple(beside) if isinstance(answer, tuple) else None)


def _put_together(tensor: Any, beside: tuple[Any, ...] | None) -> Any:
    return tensor if beside is None else (tensor, *beside)
