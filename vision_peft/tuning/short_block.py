"""The last block for the tokens that are read: where the head reads the class token, no other leaves that block.

Keys and values are made of all tokens; queries, and all that follows them, of those alone that the head reads: the
class token, of a distilled model two. It is the same function, at about a sixth of what the block costs:

    x_c + proj(softmax(q_c Kᵀ / √d) V),   then the MLP of x_c

``attach`` puts it on where the model and all grafts of the last block allow it, ``detach`` takes it off, and so does
``disabled`` for a while. It acts inside the model's ``forward`` only: ``forward_features`` and
``forward_intermediates`` give all tokens, and so does the model while a forward hook of the user's stands on the last
block or the norm behind it. A graft allows it by ``token_wise``.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from vision_peft.tuning.attention import KeyValueAttention, attend
from vision_peft.tuning.blocks import BlockGraft, blocks, branches
from vision_peft.tuning.families import family_of, family_of_attention, family_of_block
from vision_peft.tuning.graft import Graft, children, graft, kinds, pop_grafts, push_grafts
from vision_peft.tuning.norms import token_norm
from vision_peft.tuning.thread_state import is_backward

_KNOWN = ("torch", "timm", "vision_peft")  # whose layers are known to treat tokens one by one, but for attention
_CALLED = ("forward", "forward_features", "forward_head", "pool", "_pool")  # of a model, where timm has them


class ForwardNow:
    """Which threads are inside the model's forward. Copies start empty."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self._was_short: Any = WeakIdKeyDictionary()  # inputs of the last block

    def __reduce__(self) -> tuple[Any, ...]:
        return ForwardNow, ()

    def enter(self) -> None:
        """Note that this thread's forward has begun."""
        self.threads.add(_thread())

    def leave(self) -> None:
        """Note that it has ended."""
        self.threads.discard(_thread())

    def reads(self, x: Tensor) -> bool:
        """Tell whether the last block, which ``x`` enters, works inside the model's forward.

        With gradient checkpointing it runs again in the backward pass: then it works as it did, which is found by its
        input, which checkpointing hands over again (``fully_shard`` a view of it).
        """
        if torch.compiler.is_compiling():
            return bool(self.threads)
        now = _thread() in self.threads
        if not torch.is_grad_enabled():
            return now
        key = x if x._base is None else x._base
        if is_backward():
            return self._was_short.get(key, now)
        if now:
            self._was_short[key] = True
        else:
            self._was_short.pop(key, None)
        return now


def _thread() -> int:
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class ShortModel(Graft):
    """The whole model: inside its forward the last block gives the tokens that are read."""

    short_now: ForwardNow
    short_last: tuple[Any, ...]  # the last block and the norm behind it, which live elsewhere
    global_pool: str
    token_wise = True
    adds_nothing = True
    of_method = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        whole = self.global_pool != "token" or _is_watched(self.short_last)
        if whole or _runs_again_compiled(self, self.short_last[0]):
            return super().forward(*args, **kwargs)
        self.short_now.enter()
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.short_now.leave()

    def fold(self) -> None:
        """Nothing was added to the weights."""


def _runs_again_compiled(model: Any, block: Any) -> bool:
    """Tell whether a second run of the block in the backward pass would be compiled, where nothing tells it apart."""
    compiled = block._compiled_call_impl is not None or "forward" in block.__dict__
    return bool(getattr(model, "grad_checkpointing", False)) and compiled


def _is_watched(parts: Iterable[Any]) -> bool:
    """Tell whether a hook of the user's, who means all tokens, stands on a part; torch and this package have others."""
    if torch.compiler.is_compiling():
        return False
    return any(
        not getattr(hook, "__module__", "").startswith(("torch.", "vision_peft."))
        for part in parts
        for module in part.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    )


class ShortBlock(BlockGraft):
    """The last block, whose first half drops all tokens but the first."""

    short_now: ForwardNow
    short_tokens: int
    token_wise = True
    adds_nothing = True
    of_method = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        asked = {"queries": self.short_tokens} if self.short_now.reads(x) else {}
        return super().forward(x, *args, **kwargs, **asked)

    def fold(self) -> None:
        """Nothing was added to the weights."""


class ShortAttention(Graft):
    """Attention that takes ``queries``, the number of first tokens that ask."""

    token_wise = True
    adds_nothing = True
    of_method = False

    def forward(self, x: Tensor, *args: Any, queries: int | None = None, **kwargs: Any) -> Any:
        if queries is None:
            return super().forward(x, *args, **kwargs)
        if isinstance(self, KeyValueAttention):
            return super().forward(x, *args, queries=queries, **kwargs)
        return attend(self, x, [], *args, queries=queries, **kwargs)

    def fold(self) -> None:
        """Nothing was added to the weights."""


_KINDS = (ShortModel, ShortBlock, ShortAttention)


def shorten_last_block(model: Any) -> bool:
    """Compute only the tokens that the head reads in the last block of ``model``; return whether that can be done.

    The model stays as it is where its head reads more than the class token, where a graft on the last block or behind
    it needs all tokens, or where a layer or a forward is not timm's. ``attach`` calls this; a frozen model without
    methods, or a merged one, gets it by this call. Logits and gradients are the same but for rounding.
    """
    restore_last_block(model)
    tokens = _count_read(model)
    if tokens is None:
        return False
    now, last = ForwardNow(), blocks(model)[-1]
    graft(model, ShortModel, short_now=now, short_last=(last, token_norm(model)))
    graft(last, ShortBlock, short_now=now, short_tokens=tokens)
    for branch in branches(last, "attn"):
        graft(branch.layer, ShortAttention)
    return True


def restore_last_block(model: nn.Module) -> bool:
    """Undo ``shorten_last_block``, methods stay; return whether there was something to undo."""
    short = [module for module in model.modules() if set(_KINDS).intersection(kinds(module))]
    modes = {module: module.training for module in model.modules()}
    for module in short:
        push_grafts(module, [entry for entry in pop_grafts(module) if entry[0] not in _KINDS])
    for module, training in modes.items() if short else ():
        module.training = training
    return bool(short)


@contextmanager
def whole_last_block(model: nn.Module) -> Iterator[None]:
    """Compute all tokens of the last block of ``model`` inside a ``with`` block."""
    shortened = restore_last_block(model)
    try:
        yield
    finally:
        if shortened:
            shorten_last_block(model)


def _count_read(model: Any) -> int | None:
    """Count the first tokens behind the last block that are all anything reads; None where that is not so."""
    try:
        tokens, last = family_of(model).read_tokens(model), blocks(model)[-1]
        attention = [branch.layer for branch in branches(last, "attn")]
        written_out = [family_of_attention(attn).attention_classes for attn in attention]
        family_of_block(last).linears(last, "fc1")  # raises where the MLP is not known
    except ValueError:
        return None
    if tokens is None or not _is_timms(model):
        return None
    known = _plain(last) in family_of_block(last).block_classes and all(
        _plain(attn) in classes and getattr(attn, "num_prefix_tokens", tokens) >= tokens  # further ones may turn
        for attn, classes in zip(attention, written_out, strict=True)
    )
    layers = [token_norm(model), *last.modules()]
    token_wise = all(kind.token_wise for module in (model, *layers) for kind in kinds(module))
    added = {inner for layer in layers for _, child in children(layer) for inner in _modules(child)}
    own = any(_is_own(layer) for layer in layers if layer not in added)
    return tokens if known and token_wise and not own else None


def _is_own(layer: nn.Module) -> bool:
    """Tell whether a layer is of the user's making, so that nobody knows whether it treats tokens one by one."""
    return _plain(layer).__module__.partition(".")[0] not in _KNOWN or "forward" in vars(layer)


def _modules(child: nn.Module | nn.Parameter) -> Iterable[nn.Module]:
    return child.modules() if isinstance(child, nn.Module) else ()


def _plain(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module without its grafts."""
    return next(cls for cls in type(module).__mro__ if "_generated" not in cls.__dict__ and not issubclass(cls, Graft))


def _is_timms(model: Any) -> bool:
    """Tell whether what runs the model from its blocks to the logits is timm's code."""
    plain: Any = _plain(model)
    names = [name for name in _CALLED if hasattr(plain, name)]
    own = any(name in vars(model) for name in names)
    return not own and all(getattr(plain, name).__module__.startswith("timm.models.") for name in names)
