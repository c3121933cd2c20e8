"""The layers that carry low-rank updates: a linear layer, a convolution, a layer's output, slices of a fused qkv."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Any

from torch import Tensor, nn

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
        return self.lora(x, super().forward(x), self.weight, self.bias)

    def fold(self) -> None:
        self.lora.fold_into(self.weight, self.bias)


class LoRAConv(Graft):
    """A convolution (2-D or 3-D, not in groups) with one update."""

    lora: LowRank
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return self.lora(x, super().forward(x), self.weight, self.bias, partial(convolve, self))

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
        return self.lora_output(y, y, self.weight, self.bias)

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
        slices = split_rows(super().forward(x), self.lora_heads, -1)
        weights, biases = self._rows()
        for name, update in self.lora.items():
            i = "qkv".index(name)
            slices[i] = update(x, slices[i], weights[i], biases[i])
        return join_rows(slices, self.lora_heads, -1)

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
