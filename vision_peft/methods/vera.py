"""VeRA, vector-based random matrix adaptation (Kopiczko et al., ICLR 2024, https://arxiv.org/abs/2310.11454).

One pair of frozen random matrices serves all layers; each learns two vectors beside it:

    y = W x + b + b_v ⊙ B (d ⊙ A dropout(x))

with A (r, in) and B (out, r), of which a layer takes as many columns and rows as it has channels, d (r) starting at 0.1
and b_v (out) at 0.

A and B are uniform within ±√(6 / fan-in), drawn A first from a generator on the CPU seeded ``seed``, as large as the
largest layer: from seed and layers they are the same everywhere, so that files need not hold them.

Source: HF peft 0.21 tuners/vera/model.py and layer.py, whose matrices are equal bit for bit for the same
``projection_prng_key`` and layers. Deviation: there the default is to store A and B (``save_projection``), here it is
not to; the paper's code shares pairs between layers of the same shape only.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.linear_sites import ALL_LINEAR, find_sites
from vision_peft.tuning.method import positive, probability, some_of

TARGETS = ("qkv", "proj", "fc1", "fc2", ALL_LINEAR)


class Projections(nn.Module):
    """The frozen A (r, in) and B (out, r) that all layers share; buffers, stored where ``stored``."""

    A: Tensor
    B: Tensor

    def __init__(self, in_features: int, out_features: int, rank: int, seed: int, *, stored: bool) -> None:
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(seed)
        for name, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            bound = math.sqrt(3) * (math.sqrt(2) / math.sqrt(shape[1]))
            drawn = torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)
            self.register_buffer(name, drawn, persistent=stored)


class ScalingVectors(nn.Module):
    """What one layer learns: d (r) between A and B, b (out) behind B."""

    def __init__(self, out_features: int, method: "VeRA") -> None:
        super().__init__()
        self.d = nn.Parameter(torch.full((method.rank,), method.d_initial))
        self.b = nn.Parameter(torch.zeros(out_features))
        self.dropout = nn.Dropout(method.dropout)

    def forward(self, x: Tensor, shared: Projections) -> Tensor:
        hidden = F.linear(self.dropout(x), shared.A[:, : x.shape[-1]]) * self.d
        return F.linear(hidden, shared.B[: len(self.b)]) * self.b


class VeRALinear(Graft):
    """A linear layer with an update through the shared matrices."""

    token_wise = True
    vera: ScalingVectors
    vera_shared: tuple[Projections]  # lives on the first layer, as ``vera_projections``
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.vera(x, self.vera_shared[0]) + super().forward(x)

    def fold(self) -> None:
        (shared,) = self.vera_shared
        rows = self.vera.b.unsqueeze(1) * shared.B[: self.weight.shape[0]]
        self.weight += rows @ (self.vera.d.unsqueeze(1) * shared.A[:, : self.weight.shape[1]])


@dataclass(frozen=True)
class VeRA(BlockMethod):
    """Two learned vectors for every layer beside shared random matrices; folds into the weights (``merge``)."""

    name: ClassVar[str] = "vera"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-2}

    rank: int = 256  # r
    targets: tuple[str, ...] = ("qkv",)  # out of qkv, proj, fc1, fc2; or "all-linear", which leaves the head out
    d_initial: float = 0.1  # start value of d
    dropout: float = 0.0  # rate on the input of A
    seed: int = 0  # of the shared matrices
    _: KW_ONLY
    save_projection: bool = False  # store the shared matrices in the adapter as well

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rank=self.rank)
        probability(dropout=self.dropout)
        some_of("targets", self.targets, TARGETS)
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise ValueError(f"all-linear includes all other targets; got {self.targets}: give only one")
        if not self.d_initial:
            raise ValueError("d_initial=0 and b=0 would stay where they are: wanted another start value of d")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed}")

    @property
    def starts_as_identity(self) -> bool:
        return True

    @property
    def remark(self) -> str | None:
        return "all-linear leaves the head out, which trains whole" if ALL_LINEAR in self.targets else None

    def attach(self, model: nn.Module) -> None:
        chosen, tuned = self.chosen_blocks(model), self.chosen_modules(model)
        layers: list[Any] = [site.layers[0] for site in find_sites(model, chosen, self.targets, tuned, share=False)]
        width = max(layer.in_features for layer in layers), max(layer.out_features for layer in layers)
        shared = Projections(*width, self.rank, self.seed, stored=self.save_projection)
        for layer in layers:
            children: dict[str, Any] = {"vera": ScalingVectors(layer.out_features, self), "vera_shared": (shared,)}
            graft(layer, VeRALinear, **children, **({"vera_projections": shared} if layer is layers[0] else {}))
