"""How large is what was learned: norms of the updates of weights, block by block, beside those of the weights."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning import record
from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.graft import Graft, grafts, kinds
from vision_peft.tuning.known_heads import find_head_kind

HEAD, ELSEWHERE = "head", "elsewhere"  # what is in no block


@dataclass(frozen=True)
class Update:
    """What was learned in one place: a block by its number, `HEAD` or `ELSEWHERE`.

    Norms are Frobenius norms over all tensors of the place together.
    """

    place: str
    parts: list[str]  # what is grafted or trained there, as "attn.qkv Linear[LoRA]"
    parameters: int
    norm: float  # of the tuned tensors
    change: float | None  # of the update of weights; None: nothing there is one, or the weights before are not known
    weight: float | None  # of these weights before

    @property
    def relative(self) -> float | None:
        """The update as a share of the weights that it changes."""
        return self.change / self.weight if self.change is not None and self.weight else None


@torch.no_grad()
def measure_updates(model: Any) -> list[Update]:
    """Measure a tuned model, block by block, then what is outside of blocks and the head; the model stays as it is.

    A term that can be folded into weights (LoRA, SSF, ...) is the update that folding makes. One that cannot
    (AdaptFormer, prompts, ...) has the norm of its tensors only. What was trained in place is compared with what it was
    before, where that was kept.
    """
    tuning = record.find(model)
    if tuning is None:
        return []
    of_block = {id(block): str(number) for number, block in enumerate(blocks(model) if has_blocks(model) else [])}
    prefixes = {f"{name}.": of_block[id(module)] for name, module in model.named_modules() if id(module) in of_block}
    heads = record.head_tensors(model)
    tuned = record.tuned_tensors(model)
    before, after = _fold(model)
    for name in tuning.in_place:
        if name in tuning.originals:
            before[name], after[name] = tuning.originals[name], model.get_parameter(name)
    parts: dict[str, list[str]] = {}
    for name, module in grafts(model):
        parts.setdefault(_find_place(f"{name}.", prefixes, heads), []).append(_describe(name, module, prefixes))
    for place, names in _group(tuning.in_place, prefixes, heads).items():
        parts.setdefault(place, []).extend(_shorten(name, prefixes) for name in names)
    tensors, changed = _group(tuned, prefixes, heads), _group(before, prefixes, heads)
    updates = []
    for place in [*dict.fromkeys(prefixes.values()), ELSEWHERE, HEAD]:
        names, weights = tensors.get(place, []), changed.get(place, [])
        if not names and place not in parts:
            continue
        updates.append(
            Update(
                place,
                parts.get(place, []) if place != HEAD else [find_head_kind(model) or "own"],
                sum(tuned[name].numel() for name in names if isinstance(tuned[name], nn.Parameter)),
                _norm(tuned[name] for name in names),
                _norm(after[name].float() - before[name].float().to(after[name].device) for name in weights)
                if weights
                else None,
                _norm(before[name] for name in weights) if weights else None,
            )
        )
    return updates


def _fold(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights that folding changes, before and after, by name."""
    stuck: set[type[Graft]] = {kind for _, module in grafts(model) for kind in kinds(module) if kind.fold is Graft.fold}
    while True:
        folded = copy.deepcopy(model)
        added = record.graft_tensors(folded)
        before = {name: tensor.clone() for name, tensor in folded.state_dict().items() if name not in added}
        for kind, module in _list_foldable(folded, stuck):
            kind.prepare_fold(module)
        failed = next((kind for kind, module in _list_foldable(folded, stuck) if not _try_fold(kind, module)), None)
        if failed is None:
            after = folded.state_dict()
            changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
            return {name: before[name] for name in changed}, {name: after[name] for name in changed}
        stuck.add(failed)


def _list_foldable(model: nn.Module, stuck: set[type[Graft]]) -> list[tuple[type[Graft], Graft]]:
    # layers before the norm they read, which may fold into them, as vp.merge does
    found = reversed(list(grafts(model)))
    return [(kind, module) for _, module in found for kind in kinds(module) if kind not in stuck]


def _try_fold(kind: type[Graft], module: Graft) -> bool:
    try:
        kind.fold(module)
    except ValueError:
        return False
    return True


def _group(names: Iterable[str], prefixes: Mapping[str, str], heads: Mapping[str, Tensor]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_find_place(name, prefixes, heads), []).append(name)
    return found


def _find_place(name: str, prefixes: Mapping[str, str], heads: Mapping[str, Tensor]) -> str:
    if name in heads:
        return HEAD
    return next((place for prefix, place in prefixes.items() if name.startswith(prefix)), ELSEWHERE)


def _shorten(name: str, prefixes: Mapping[str, str]) -> str:
    """Return a name as it is called inside its block."""
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def _describe(name: str, module: nn.Module, prefixes: Mapping[str, str]) -> str:
    inside = _shorten(f"{name}.", prefixes).rstrip(".")
    return f"{inside or ('block' if name else 'model')} {type(module).__name__}"


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
