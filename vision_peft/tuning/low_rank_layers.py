"""The layers that carry low-rank updates: a linear layer, a convolution, a layer's output, slices of a fused qkv."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.added_product import add_product
from vision_peft.tuning.autograd_functions import is_read
from vision_peft.tuning.graft import Graft, depth, graft, ungraft
from vision_peft.tuning.layers import check_plain, convolve
from vision_peft.tuning.linear_sites import PROJ_OUTPUT, Site
from vision_peft.tuning.low_rank import LowRank
from vision_peft.tuning.qkv_rows import join_rows, split_rows


class LoRALinear(Graft):
    """A linear layer with one update."""

    token_wise = True
    lora: LowRank
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if adds_in_place(self, [self.lora]):
            hidden, run = _rows(self.lora.narrow(x)), partial(super().forward, _rows(x))
            return add_product(run, hidden, self.lora.B, self.lora.scaling).unflatten(0, x.shape[:-1])
        update = self.lora(x)
        return self.lora.add(super().forward(x), update, self.weight, self.bias)

    def forward_first(self, x: Tensor, tokens: int, channels: int) -> tuple[Tensor, Tensor] | None:
        """Return the first ``channels`` of the output of the first ``tokens``, and the other ones of all tokens.

        None where the layer cannot make one without the other. x is (B N in).
        """
        if not may_add(self, [self.lora]):
            return None
        hidden, (of_first, of_all) = self.lora.narrow(x), cut_layer(self, x, tokens, channels)
        first, rest = self.lora.B.split([channels, len(self.lora.B) - channels])
        of_first = add_product(of_first, _rows(hidden[:, :tokens]), first, self.lora.scaling)
        of_all = add_product(of_all, _rows(hidden), rest, self.lora.scaling)
        return of_first.unflatten(0, (x.shape[0], tokens)), of_all.unflatten(0, x.shape[:-1])

    def fold(self) -> None:
        self.lora.fold_into(self.weight, self.bias)


class LoRAConv(Graft):
    """A convolution (2-D or 3-D, not in groups) with one update."""

    lora: LowRank
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        update = self.lora(x, partial(convolve, self))
        return self.lora.add(super().forward(x), update, self.weight, self.bias)

    def fold(self) -> None:
        check_plain(self)
        self.lora.fold_into(self.weight, self.bias)


class LoRAOutput(Graft):
    """A linear layer with a low-rank map of its output beside the output."""

    token_wise = True
    lora_output: LowRank
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.lora_output.add(y, self.lora_output(y), self.weight, self.bias)

    def fold(self) -> None:
        dense = self.lora_output.dense()
        self.weight += dense @ self.weight
        if self.bias is not None:
            self.bias += dense @ self.bias


class LoRAQKV(Graft):
    """A fused qkv layer with an update of its own for each chosen slice."""

    token_wise = True
    lora: Any  # nn.ModuleDict of LowRank by slice name
    lora_heads: int | None  # see ``qkv_rows``
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if self.lora_heads is None and adds_in_place(self, self.lora.values()):
            y = super().forward(x.flatten(0, -2))
            for name, update in self.lora.items():
                y = add_product(y, _rows(update.narrow(x)), update.B, update.scaling, "qkv".index(name) * len(update.B))
            return y.unflatten(0, x.shape[:-1])
        slices = split_rows(super().forward(x), self.lora_heads, -1)
        weights, biases = self._rows()
        for name, update in self.lora.items():
            i = "qkv".index(name)
            slices[i] = update.add(slices[i], update(x), weights[i], biases[i])
        return join_rows(slices, self.lora_heads, -1)

    def forward_first(self, x: Tensor, tokens: int, channels: int) -> tuple[Tensor, Tensor] | None:
        """Return the queries of the first ``tokens``, and keys and values of all; see ``LoRALinear``."""
        if self.lora_heads is not None or not may_add(self, self.lora.values()):
            return None
        of_first, of_all = cut_layer(self, x, tokens, channels)
        for name, update in self.lora.items():
            if name == "q":
                of_first = add_product(of_first, _rows(update.narrow(x[:, :tokens])), update.B, update.scaling)
            else:
                place = ("qkv".index(name) - 1) * len(update.B)
                of_all = add_product(of_all, _rows(update.narrow(x)), update.B, update.scaling, place)
        return of_first.unflatten(0, (x.shape[0], tokens)), of_all.unflatten(0, x.shape[:-1])

    def fold(self) -> None:
        weights, biases = self._rows()
        for name, update in self.lora.items():
            i = "qkv".index(name)
            update.fold_into(weights[i], biases[i])
        self.weight.copy_(join_rows(weights, self.lora_heads))
        if self.bias is not None:
            self.bias.copy_(join_rows(biases, self.lora_heads))

    def _rows(self) -> tuple[list[Tensor], list[Any]]:
        biases = [None] * 3 if self.bias is None else split_rows(self.bias, self.lora_heads)
        return split_rows(self.weight, self.lora_heads), biases


def may_add(layer: nn.Module, updates: Iterable[LowRank]) -> bool:
    """Tell whether updates are sums on the output of a layer of torch, which nothing else reads or changes."""
    alone = type(layer).__bases__[-1] is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks
    return alone and all(update.only_adds for update in updates)


def adds_in_place(layer: nn.Module, updates: Iterable[LowRank] = ()) -> bool:
    """Tell whether updates, or none but sums, are added where the output of the layer lies."""
    return not is_read() and may_add(layer, updates)


def cut_layer(layer: Any, x: Tensor, tokens: int, channels: int) -> tuple[Tensor, Tensor]:
    """Compute what the frozen layer makes of x (B N in): see ``forward_first``; rows of both are (B ·, out)."""
    parts = [channels, layer.out_features - channels]
    to_first, to_rest = layer.weight.split(parts)
    of_first, of_rest = (None, None) if layer.bias is None else layer.bias.split(parts)
    return F.linear(_rows(x[:, :tokens]), to_first, of_first), F.linear(_rows(x), to_rest, of_rest)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2)


def graft_updates(sites: Iterable[Site], make: Callable[[Site], list[LowRank]]) -> None:
    """Graft what ``make`` gives for a site, one update for each of its layers. Slices of a layer are neighbours."""
    for (layer, sliced), group in groupby(sites, key=lambda site: (site.layers[0], site.sliced)):
        if sliced:
            slices = list(group)
            updates = nn.ModuleDict({site.target: make(site)[0] for site in slices})
            graft(layer, LoRAQKV, lora=updates, lora_heads=slices[0].heads)
            continue
        for site in group:
            for own, update in zip(site.layers, make(site), strict=True):
                if site.target == PROJ_OUTPUT:
                    graft(own, LoRAOutput, lora_output=update)
                else:
                    graft(own, LoRALinear if isinstance(own, nn.Linear) else LoRAConv, lora=update)


def update_of(site: Site, layer: Any) -> LowRank:
    """Return the newest update of ``site`` on one of its layers."""
    return layer.lora[site.target] if site.sliced else layer.lora


def restart_updates(site: Site, A: Tensor, scaling: float) -> None:
    """Start the updates of ``site``, the newest on its layers, anew from A (rank, in); at rank 0 take them off."""
    for layer in site.layers:
        if len(A):
            update_of(site, layer).restart(A, scaling)
            continue
        if site.sliced:
            del layer.lora[site.target]
        if not site.sliced or not layer.lora:
            ungraft(layer, keep=depth(layer) - 1)
