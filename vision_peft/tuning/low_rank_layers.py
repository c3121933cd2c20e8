"""The layers that carry low-rank updates: a linear layer, a convolution, a layer's output, slices of a fused qkv."""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, depth, graft, ungraft
from vision_peft.tuning.linear_sites import PROJ_OUTPUT, Site
from vision_peft.tuning.low_rank import LowRank


class LoRALinear(Graft):
    """A linear layer with one update."""

    lora: LowRank
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return self.lora(x, super().forward(x), self.weight, self.bias)

    def fold(self) -> None:
        self.lora.fold_into(self.weight, self.bias)


class LoRAConv(Graft):
    """A convolution (2-D or 3-D, not in groups) with one update."""

    lora: LowRank
    weight: Tensor
    bias: Tensor | None
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.lora(x, super().forward(x), self.weight, self.bias, lambda x, A: self._conv_forward(x, A, None))

    def fold(self) -> None:
        self.lora.fold_into(self.weight, self.bias)


class LoRAOutput(Graft):
    """A linear layer with a low-rank map of its output beside the output."""

    lora_output: LowRank
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.lora_output(y, y, self.weight, self.bias)

    def fold(self) -> None:
        dense = self.lora_output.dense()
        self.weight += dense @ self.weight
        if self.bias is not None:
            self.bias += dense @ self.bias


class LoRAQKV(Graft):
    """A fused qkv layer with an update of its own for each chosen slice."""

    lora: Any  # nn.ModuleDict of LowRank by slice name
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        slices = list(super().forward(x).chunk(3, dim=-1))
        for name, update in self.lora.items():
            i = "qkv".index(name)
            slices[i] = update(x, slices[i], *self._rows(i))
        return torch.cat(slices, dim=-1)

    def fold(self) -> None:
        for name, update in self.lora.items():
            update.fold_into(*self._rows("qkv".index(name)))

    def _rows(self, i: int) -> tuple[Tensor, Tensor | None]:
        return self.weight.chunk(3)[i], None if self.bias is None else self.bias.chunk(3)[i]


def graft_updates(sites: Iterable[Site], make: Callable[[Site], list[LowRank]]) -> None:
    """Graft what ``make`` gives for a site, one update for each of its layers. Slices of a layer are neighbours."""
    for (layer, sliced), group in groupby(sites, key=lambda site: (site.layers[0], site.sliced)):
        if sliced:
            graft(layer, LoRAQKV, lora=nn.ModuleDict({site.target: make(site)[0] for site in group}))
            continue
        for site in group:
            for own, update in zip(site.layers, make(site), strict=True):
                if site.target == PROJ_OUTPUT:
                    graft(own, LoRAOutput, lora_output=update)
                else:
                    graft(own, LoRALinear if isinstance(own, nn.Linear) else LoRAConv, lora=update)


def restart_updates(site: Site, A: Tensor, scaling: float) -> None:
    """Start the updates of ``site``, the newest on its layers, anew from A (rank, in); at rank 0 take them off."""
    for layer in site.layers:
        if len(A):
            update: LowRank = layer.lora[site.target] if site.sliced else layer.lora
            update.restart(A, scaling)
            continue
        if site.sliced:
            del layer.lora[site.target]
        if not site.sliced or not layer.lora:
            ungraft(layer, keep=depth(layer) - 1)
