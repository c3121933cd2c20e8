"""FacT, factor tuning (Jie and Deng, AAAI 2023, https://arxiv.org/abs/2212.03145).

The updates of all weights of all blocks are one tensor of D x D tiles, factorised with shared U (r D) and V (D r):

    ΔW = s · V C U

with a core C (r r) for every tile: q, k, v, proj, the tiles of fc1 side by side in its output and those of fc2 in its
input. ``tt`` (tensor train) learns every core; ``tk`` (Tucker) draws the cores from one cube and a column per tile.

Source: JieShibo/PETL-ViT@026e4f1 FacT/fact_tt.py and fact_tk.py. V starts from zero, U and the ``tt`` cores as
``nn.Linear``, cube and columns as Xavier; dropout acts between core and V, one mask per tile.
In the code's ``tk`` the cores of fc1 and fc2 mix their columns, unlike the paper's equation: the r x r x n product is
flattened with the tiles last and read back with the tiles first (``columns="mixed"``). Its r and s depend on the task.
Deviations: width, depth and MLP ratio follow the backbone (768, 12 and 4 there); both first layers of a SwiGLU have
tiles; every stage of Swin has factors of its own. A side that is no multiple of D (a hidden layer of 5.33 D, grouped
keys and values of D / 2) has ⌈size / D⌉ tiles, the last of which is cut at the edge of the weight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.added_product import add_product
from vision_peft.tuning.autograd_functions import narrow_linear
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import KEEPS_WIDTH, linears, width
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.low_rank_layers import adds_in_place
from vision_peft.tuning.method import one_of, positive, probability
from vision_peft.tuning.needs import Need


class Factors(nn.Module):
    """What all weights share: U and V, for ``tk`` also the cube (r r r) and one column (r) per tile."""

    def __init__(self, dim: int, tiles: int, method: "FacT") -> None:
        super().__init__()
        rank = method.rank
        self.U = nn.Parameter(torch.empty(rank, dim).uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim)))
        self.V = nn.Parameter(torch.zeros(dim, rank))
        self.mixed = method.columns == "mixed"
        if method.form == "tk":
            self.cube = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
            self.columns = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, tiles)))

    def cores(self, first: int, tiles: int, part: str) -> Tensor:
        """Cores (tiles r r) of the weight ``part`` whose columns start at ``first``."""
        product = self.cube @ self.columns[:, first : first + tiles]
        if part not in ("fc1", "fc2") or not self.mixed:
            return product.permute(2, 0, 1) if part == "fc2" else product.permute(2, 1, 0)
        flattened = product.reshape(len(product), tiles, len(product))
        return flattened.permute(1, 2, 0) if part == "fc1" else flattened.permute(1, 0, 2)


class _FacTWeight(Graft):
    token_wise = True
    fact_shared: tuple[Factors]  # lives on the first graft that shares it
    fact_core: Any  # a Parameter (tiles r r), or for "tk" the arguments of ``Factors.cores``
    fact_dropout: nn.Dropout
    fact_scale: float
    weight: Tensor
    in_features: int
    out_features: int

    def fact_cores(self) -> Tensor:
        """Cores (tiles r r)."""
        return self.fact_core if isinstance(self.fact_core, Tensor) else self.fact_shared[0].cores(*self.fact_core)


class FacTOutput(_FacTWeight):
    """A layer whose tiles lie side by side in its output: qkv, q, k, v, proj, fc1."""

    def forward(self, x: Tensor) -> Tensor:
        factors, cores = self.fact_shared[0], self.fact_cores()
        hidden = F.linear(narrow_linear(x, factors.U), cores.flatten(0, 1)).unflatten(-1, cores.shape[:2])
        hidden = self.fact_dropout(hidden) * self.fact_scale
        y = super().forward(x)
        if self.out_features % len(factors.V):
            return y + F.linear(hidden, factors.V).flatten(-2)[..., : self.out_features]
        return torch.addmm(y.reshape(-1, len(factors.V)), hidden.flatten(0, -2), factors.V.t()).view_as(y)

    def fold(self) -> None:
        factors = self.fact_shared[0]
        update = (factors.V @ self.fact_cores() @ factors.U).flatten(0, 1)
        self.weight += self.fact_scale * update[: self.out_features]


class FacTInput(_FacTWeight):
    """A layer whose tiles lie side by side in its input: fc2, and proj where attention is not as wide as the stream."""

    def forward(self, x: Tensor) -> Tensor:
        factors = self.fact_shared[0]
        dim = factors.U.shape[1]
        surplus = -self.in_features % dim
        padded = F.pad(x, (0, surplus)) if surplus else x
        hidden = narrow_linear(padded, factors.U)
        hidden = hidden if padded.shape[-1] == dim else hidden.flatten(-2)  # of one tile, or of all
        hidden = F.linear(hidden, self.fact_cores().transpose(0, 1).flatten(1))
        hidden = (self.fact_dropout(hidden) * self.fact_scale).flatten(0, -2)
        if self.out_features == len(factors.V) and adds_in_place(self):
            y = add_product(partial(super().forward, x.flatten(0, -2)), hidden, factors.V, 1.0)
            return y.unflatten(0, x.shape[:-1])
        y = super().forward(x)
        return torch.addmm(y.flatten(0, -2), hidden, factors.V.t()).view_as(y)

    def fold(self) -> None:
        factors = self.fact_shared[0]
        update = torch.cat([*(factors.V @ self.fact_cores() @ factors.U)], dim=1)
        self.weight += self.fact_scale * update[:, : self.in_features]


@dataclass(frozen=True)
class FacT(BlockMethod):
    """Low-rank updates that share their factors over all weights; folds into the weights (``merge``)."""

    name: ClassVar[str] = "fact"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-2}

    rank: int = 16  # r
    form: str = "tt"  # "tt": a core for every tile; "tk": cores from one cube
    columns: str = "mixed"  # of fc1 and fc2 in "tk"; "mixed": as in the code; "own": each tile its own, as in the paper
    scale: float = 1.0  # s
    dropout: float = 0.1  # rate between core and V

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rank=self.rank, scale=self.scale)
        probability(dropout=self.dropout)
        one_of("form", self.form, ("tt", "tk"))
        one_of("columns", self.columns, ("mixed", "own"))

    @classmethod
    def choose_title(cls, fields: Mapping[str, Any]) -> str:
        return "FacT-TK" if fields.get("form") == "tk" else "FacT-TT"

    @classmethod
    def as_published(cls, **fields: Any) -> "FacT":
        """Give the released code: ``tk`` mixes the columns of fc1 and of fc2 (the default)."""
        return cls(**fields)

    @classmethod
    def as_in_paper(cls, **fields: Any) -> "FacT":
        """Give the paper: every tile of fc1 and fc2 has the core of its own column in ``tk``; ``tt`` is the code's."""
        return cls(**{"columns": "own", **fields})

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, KEEPS_WIDTH)

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for dim, group in groupby(self.chosen_blocks(model), key=width):  # one group, but for Swin's stages
            if self.rank > dim:
                raise ValueError(f"rank must be at most the width {dim} of the backbone; got {self.rank}")
            self._attach_to([weight for block in group for weight in _weights(block, dim)], dim)

    def _attach_to(self, weights: list["_Weight"], dim: int) -> None:
        """Graft layers that share their factors, which live on the first."""
        factors = Factors(dim, sum(tiles for _, tiles, _, _ in weights), self)
        first = 0
        for layer, tiles, part, kind in weights:
            children: dict[str, Any] = {
                "fact_core": self._core(tiles, kind) if self.form == "tt" else (first, tiles, part),
                "fact_dropout": nn.Dropout(self.dropout),
                "fact_scale": self.scale,
                "fact_shared": (factors,),
                **({"fact": factors} if first == 0 else {}),
            }
            graft(layer, kind, **children)
            first += tiles

    def _core(self, tiles: int, kind: type[_FacTWeight]) -> nn.Parameter:
        fan_in = self.rank * (tiles if kind is FacTInput else 1)
        return nn.Parameter(torch.empty(tiles, self.rank, self.rank).uniform_(-1 / fan_in**0.5, 1 / fan_in**0.5))


_Weight = tuple[nn.Linear, int, str, type[_FacTWeight]]  # layer, number of D x D tiles, part, kind


def _weights(block: Any, dim: int) -> list[_Weight]:
    """List the weights of a block in FacT's order: q, k, v, proj, fc1, fc2; each has one side of width D."""
    found: list[_Weight] = []
    for part in ("qkv", "proj", "fc1", "fc2"):
        for layer in linears(block, part):
            kind = FacTInput if part == "fc2" or layer.in_features != dim else FacTOutput
            tiled = layer.in_features if kind is FacTInput else layer.out_features
            found.append((layer, math.ceil(tiled / dim), part, kind))
    return found
