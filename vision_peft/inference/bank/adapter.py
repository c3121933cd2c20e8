"""One adapter of a bank: its own modules at the seats of the backbone, everything frozen shared."""

import copy
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vision_peft.formats import load_adapter
from vision_peft.formats.adapter_files import TENSORS
from vision_peft.inference.bank.cut import BlockFromShortcut, FromShortcut, Shortcut, View
from vision_peft.inference.bank.one_bit import OneBit, encode
from vision_peft.inference.bank.seats import find_seats, nearest_seat
from vision_peft.tuning import graft, record
from vision_peft.tuning.blocks import BlockGraft, blocks, run_whole
from vision_peft.tuning.fingerprint import FINGERPRINT
from vision_peft.tuning.short_block import restore_last_block

OWN_SHARE = 0.5  # of the backbone: adapters that train more of it in place share too little to be in a bank
_CALLED = ("forward", "attn_half", "mlp_half")  # all that a graft may change for the frozen module to be the same


@dataclass
class Adapter:
    """What a bank holds of an adapter that is loaded."""

    views: dict[str, View]  # by seat
    attributes: dict[str, Any]  # of the whole model, while this adapter answers (num_prefix_tokens)
    alone: nn.Module | None  # the whole tuned model, where a graft sits on it or none of its modules is a seat
    tensors: dict[str, Tensor]  # its own, by name
    matrices: tuple[str, ...]  # those of grafts, which can be stored in one bit
    traces: tuple[Callable[[], None], ...]  # what makes its grafts forget the last forward
    codes: dict[str, OneBit] = field(default_factory=dict)

    @property
    def sequence(self) -> Hashable:
        """What adapters whose tokens can stand in one batch have in common."""
        return tuple(sorted(self.attributes.items(), key=lambda item: item[0]))

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors while it is not used."""
        coded = sum(code.nbytes for code in self.codes.values())
        return coded + sum(t.numel() * t.element_size() for name, t in self.tensors.items() if name not in self.codes)

    def compress(self) -> float:
        """Keep the matrices of its grafts as one bit a number; return ‖w - q‖ / ‖w‖ over them, 0 where there are none.

        Every use is then between ``expand`` and ``release``.
        """
        lost = size = 0.0
        for name in self.matrices:
            tensor = self.tensors[name]
            code = self.codes[name] = encode(tensor)
            lost += float((tensor - code.decode()).double().square().sum())
            size += float(tensor.double().square().sum())
        self.release()
        return (lost / size) ** 0.5 if size else 0.0

    def expand(self) -> None:
        """Make coded tensors whole."""
        for name, code in self.codes.items():
            self.tensors[name].data = code.decode()

    def release(self) -> None:
        """Let go of what ``expand`` made, and of what grafts noted in a forward."""
        for name in self.codes:
            self.tensors[name].data = self.tensors[name].data.new_empty(0)
        for forget in self.traces:
            forget()


class Loader:
    """Loads adapters onto copies of a backbone that share its tensors.

    Args:
        model: a plain timm vision transformer, which stays as it is.
    """

    def __init__(self, model: Any) -> None:
        self.backbone = _share(model)
        self.seats = find_seats(self.backbone)
        self.blocks = {id(block) for block in blocks(self.backbone)}
        self.parameters = dict(self.backbone.named_parameters())

    def copy(self, own: frozenset[str] = frozenset()) -> Any:
        """Copy the backbone's modules; its tensors stay the same objects but for the parameters named ``own``."""
        shared: list[Any] = [*self.backbone.buffers()]
        shared += [parameter for name, parameter in self.parameters.items() if name not in own]
        return copy.deepcopy(self.backbone, {id(tensor): tensor for tensor in shared})

    def load(self, folder: Path) -> Adapter:
        """Load the adapter in ``folder``.

        Raises:
            FileNotFoundError: no adapter there.
            ValueError: as of ``load_adapter``, or it trains too much of the backbone to share the rest.
        """
        own = self._trained_in_place(folder)
        model = self.copy(own)
        with torch.random.fork_rng(devices=[]):
            load_adapter(model, folder)
        restore_last_block(model)  # a bank cuts whole blocks
        for block in blocks(model):
            run_whole(block)
        model.eval().requires_grad_(False)
        tensors = record.tuned_tensors(model)
        added = record.graft_tensors(model).items()
        matrices = tuple(name for name, tensor in added if tensor.ndim > 1 and tensor.is_floating_point())
        record.clear_record(model)
        traces = tuple(
            partial(kind.forget, module)
            for _, module in graft.grafts(model)
            for kind in graft.kinds(module)
            if kind.forget is not graft.Graft.forget
        )
        return Adapter(*self._take_apart(model), tensors, matrices, traces)

    def _trained_in_place(self, folder: Path) -> frozenset[str]:
        with safe_open(folder / TENSORS, "pt") as file:
            own = frozenset(file.keys()) & frozenset(self.parameters)
        total = sum(parameter.numel() for parameter in self.parameters.values())
        trained = sum(self.parameters[name].numel() for name in own)
        if trained > OWN_SHARE * total:
            raise ValueError(
                f"the adapter in {folder} trained {100 * trained / total:.0f} % of the backbone in place: banks share "
                "the frozen backbone, of which this leaves too little; serve it as a model of its own, vp.load"
            )
        return own

    def _take_apart(self, model: Any) -> tuple[dict[str, View], dict[str, Any], nn.Module | None]:
        """Return the views by seat, attributes of the whole model, and the model where it has to run as a whole."""
        modules, frozen = dict(model.named_modules()), dict(self.backbone.named_modules())
        touched = [name for name, module in frozen.items() if _is_touched(modules.get(name), module)]
        own_halves = [name for name in touched if id(frozen[name]) in self.blocks and not _splits(modules[name])]
        attributes: dict[str, Any] = {}
        if graft.depth(model) and not graft.kinds(model):
            popped = graft.pop_grafts(model)
            graft.push_grafts(model, popped)
            for _, values in popped:
                attributes |= values
            touched.remove("")
        seats = {nearest_seat(name, self.seats) for name in touched}
        self._share_the_rest(model, self.backbone)
        if "" in seats or own_halves:
            return {}, {}, model
        views = {}
        for seat in sorted(seats):
            inside = [name for name in touched if nearest_seat(name, self.seats) == seat]
            pure = inside == [seat] and _keeps_the_layer(modules[seat], frozen[seat])
            block = id(frozen[seat]) in self.blocks
            views[seat] = View(modules[seat], _give_shortcut(modules[seat], block) if pure else None)
        return views, attributes, None

    def _share_the_rest(self, model: Any, frozen: Any) -> bool:
        """Put the backbone's own modules in place of those in ``model`` that are as they were; whether all are."""
        same = not _is_touched(model, frozen)
        for name, child in frozen._modules.items():
            if child is None:
                continue
            if self._share_the_rest(model._modules[name], child):
                model._modules[name] = child
            else:
                same = False
        return same


def _is_touched(module: Any, frozen: nn.Module) -> bool:
    return type(module) is not type(frozen) or graft.depth(module) > 0 or _has_own_tensors(module, frozen)


def _has_own_tensors(module: Any, frozen: nn.Module) -> bool:
    own = {**frozen._parameters, **frozen._buffers}
    return any(getattr(module, name, None) is not tensor for name, tensor in own.items())


def _keeps_the_layer(module: Any, frozen: nn.Module) -> bool:
    """Whether all that grafts change of a layer is what they do before and after they call it."""
    kinds = graft.kinds(module)
    if not kinds or len(kinds) != graft.depth(module) or _has_own_tensors(module, frozen):
        return False  # another layer, an attribute that is overridden, or weights of its own
    names = {name for kind in kinds for cls in kind.__mro__ for name in _defined(cls)}
    return not any(hasattr(frozen, name) for name in names - set(_CALLED))


def _defined(cls: type) -> list[str]:
    inherited = (graft.Graft, BlockGraft, nn.Module, object)
    return [] if cls in inherited else [name for name in vars(cls) if not name.startswith("__")]


def _splits(block: Any) -> bool:
    """Whether all that was grafted onto a block acts on its halves."""
    return all(issubclass(kind, BlockGraft) and kind.forward is BlockGraft.forward for kind in graft.kinds(block))


def _give_shortcut(module: Any, block: bool) -> Shortcut:
    shortcut = Shortcut()
    popped = graft.pop_grafts(module)
    graft.graft(module, BlockFromShortcut if block else FromShortcut, bank_shortcut=shortcut)
    graft.push_grafts(module, popped)
    return shortcut


def _share(model: Any) -> Any:
    """Copy the modules of ``model``, without a head, for eval mode; every tensor shares its memory with the model's."""
    tensors: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    backbone = copy.deepcopy(model, tensors)
    record.clear_record(backbone)
    restore_last_block(backbone)
    if backbone.num_classes:
        backbone.reset_classifier(0)
    backbone.__dict__[FINGERPRINT] = record.fingerprint(backbone)  # with which all adapters are compared
    record.get_or_create_record(backbone)
    return backbone.eval()
