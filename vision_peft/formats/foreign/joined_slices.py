"""Updates of q, k and v as one pair for the fused layer, which is all that HF peft knows there, and the way back.

n slices with a pair of rank r each are one pair of rank n r, A stacking theirs and B (3 D, n r) holding theirs as one
block (D, r) for each slice, zero elsewhere.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from vision_peft.tuning.low_rank_layers import LoRAQKV
from vision_peft.tuning.qkv_rows import join_rows, split_rows

Pair = dict[str, Tensor]  # A (rank, in), B (out, rank), where there is one bias (out), under DoRA magnitude (out)

# The order counts only where B is zero altogether: any choice computes the same then.
_SLICES = (("q", "k", "v"), ("q", "v"), ("q", "k"), ("k", "v"))


@torch.no_grad()
def join(layer: LoRAQKV) -> tuple[Pair, float]:
    """One pair that computes what all slices of ``layer`` do, and its scaling."""
    updates = list(layer.lora.items())
    pairs = [update.on_original() for _, update in updates]
    scaling = updates[0][1].scaling
    joined = {"A": torch.cat([A for A, _ in pairs])}
    joined["B"] = layer.weight.new_zeros(len(layer.weight), len(joined["A"]))
    first = updates[0][1]
    if first.bias is not None:
        joined["bias"] = layer.weight.new_zeros(len(layer.weight))
    if first.magnitude is not None:
        joined["magnitude"] = torch.cat(split_rows(layer.weight.norm(dim=1), layer.lora_heads))
    column = 0
    for (name, update), (A, B) in zip(updates, pairs, strict=True):
        rows = {part: tensor.chunk(3)["qkv".index(name)] for part, tensor in joined.items() if part != "A"}
        own_scaling = update.scaling / scaling
        rows["B"][:, column : column + len(A)] = B * own_scaling
        if update.bias is not None:
            rows["bias"].copy_(update.bias * own_scaling)
        if update.magnitude is not None:
            rows["magnitude"].copy_(update.magnitude)
        column += len(A)
    by_row = {part: join_rows(list(t.chunk(3)), layer.lora_heads) for part, t in joined.items() if part != "A"}
    return {**joined, **by_row}, scaling


def slices_in(pairs: list[Pair], ranks: Collection[int]) -> tuple[str, ...]:
    """Slices that ``pairs`` of fused layers are made of; () where they need not or cannot be cut.

    Args:
        pairs: the fused layers'.
        ranks: those of the other layers. One pair for q, k and v together is left as it is where it has their rank.
    """
    joined = {len(pair["A"]) for pair in pairs}
    too_wide = any(len(pair["A"]) > pair["A"].shape[1] for pair in pairs)
    if len(joined) != 1 or not (too_wide or set(ranks) - joined):
        return ()
    (rank,) = joined
    for slices in _SLICES:
        fits = rank % len(slices) == 0 and set(ranks) <= {rank // len(slices)}
        if fits and all(_is_made_of(slices, pair["B"]) for pair in pairs):
            return slices
    return ()


def _is_made_of(slices: tuple[str, ...], B: Tensor) -> bool:
    return not any(
        rows.any()
        for name, columns in zip(slices, B.tensor_split(len(slices), dim=1), strict=True)
        for part, rows in zip("qkv", columns.tensor_split(3), strict=True)
        if part != name
    )


def cut(pair: Pair, slices: tuple[str, ...]) -> dict[str, Pair]:
    """Cut a pair into one for each slice: the inverse of ``join``."""
    found: dict[str, Pair] = {}
    factors = zip(pair["A"].tensor_split(len(slices)), pair["B"].tensor_split(len(slices), dim=1), strict=True)
    for name, (A, B) in zip(slices, factors, strict=True):
        by_row = {**pair, "B": B}
        del by_row["A"]
        found[name] = {"A": A, **{part: t.tensor_split(3)["qkv".index(name)] for part, t in by_row.items()}}
    return found
