"""LoRA (Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685).

A low-rank update beside frozen linear layers:

    y = W x + b + s · B A dropout(x),  s = α / r

``targets=("q", "v")`` is the paper's: one A, B pair per slice, also on timm's fused ``qkv``. ``targets=("qkv",)`` is
what NOAH and HF peft do on fused layers: one A shared by q, k and v. At r = 8 both have 294,912 parameters on ViT-B,
but they are different functions. Where q, k and v are layers of their own (EVA-02 base, grouped heads) they share one
A in the same way, with a B for each: the function is that of the fused layer.

``targets=("proj_output",)`` is what adapter_plus calls the location ``o``: a map of what attention's projection puts
out, its bias included,

    y = o + s · B A dropout(o),  o = W x + b,

which folds as W ← (I + s · B A) W and b ← (I + s · B A) b. Beside ``proj``, o is the updated output.

rsLoRA (https://arxiv.org/abs/2312.03732): s = α / √r, so that the update keeps its size as r grows.
DoRA (https://arxiv.org/abs/2402.09353): length and direction of every row of the weight learn apart,

    y = g ⊙ (W x + s · B A dropout(x)) + b,  g = m / ‖W + s · B A‖,

the norm being that of each row (one output channel) and a constant to the gradient, m starting at ‖W‖.

Source: microsoft/LoRA loralib/layers.py; HF peft tuners/lora/dora.py; visinf/adapter_plus@191c4ab
adapter_plus/vit_adapter.py. Deviations: every B draws its own dropout mask in front of A, also where layers share A;
under dropout HF's DoRA feeds the dropped x to (g - 1) ⊙ W x as well, here W sees the whole x; adapter_plus starts A and
B at random, here B starts at 0.

W + s · B A - s · B A is not W in floating point: ``merge(model, reversible=True)`` remembers W, and ``unmerge`` puts it
back exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import is_fused, linears
from vision_peft.tuning.graft import Graft, graft, kinds
from vision_peft.tuning.method import one_of, positive, probability, some_of

TARGETS = ("q", "k", "v", "qkv", "proj", "proj_output", "fc1", "fc2")


class LowRank(nn.Module):
    """The update of one weight (out, in), or of a slice of its rows; ``first`` is another one, whose A it shares."""

    def __init__(self, weight: Tensor, method: "LoRA", first: "LowRank | None" = None) -> None:
        super().__init__()
        out_features, in_features = weight.shape
        self.first = () if first is None else (first,)  # in a tuple, so that it is not registered a second time
        if first is None:
            self.A = nn.Parameter(torch.empty(method.rank, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, method.rank))
        self.magnitude = nn.Parameter(weight.detach().norm(dim=1)) if method.dora else None
        self.dropout = nn.Dropout(method.dropout)
        self.scaling = method.scaling
        if first is None and method.init == "kaiming":
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        elif first is None:
            nn.init.normal_(self.A, std=1 / method.rank)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Update the output ``y`` (..., out) of the frozen layer, given its input ``x`` (..., in)."""
        update = F.linear(F.linear(self.dropout(x), self.down()), self.B) * self.scaling
        if self.magnitude is None:
            return y + update
        gain = self._gain(self.magnitude, weight)
        without_bias = y if bias is None else y - bias
        return y + (gain - 1) * without_bias + gain * update

    def down(self) -> Tensor:
        """Return A (rank, in), whichever module holds it."""
        return self.first[0].A if self.first else self.A

    def dense(self) -> Tensor:
        """s · B A as a dense matrix (out, in)."""
        return self.B @ self.down() * self.scaling

    def fold_into(self, weight: Tensor) -> None:
        """Write the updated weight into ``weight`` (out, in)."""
        gain = None if self.magnitude is None else self._gain(self.magnitude, weight)
        weight += self.dense()
        if gain is not None:
            weight *= gain.unsqueeze(1)

    def _gain(self, magnitude: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            length = (weight + self.dense()).norm(dim=1)
        return magnitude / length.clamp_min(torch.finfo(length.dtype).tiny)  # a row of zeros stays one


class LoRALinear(Graft):
    """A linear layer with one update."""

    lora: LowRank
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return self.lora(x, super().forward(x), self.weight, self.bias)

    def fold(self) -> None:
        self.lora.fold_into(self.weight)


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
        weights = self.weight.chunk(3)
        biases = (None, None, None) if self.bias is None else self.bias.chunk(3)
        for name, update in self.lora.items():
            i = "qkv".index(name)
            slices[i] = update(x, slices[i], weights[i], biases[i])
        return torch.cat(slices, dim=-1)

    def fold(self) -> None:
        slices = self.weight.chunk(3)
        for name, update in self.lora.items():
            update.fold_into(slices["qkv".index(name)])


@dataclass(frozen=True)
class LoRA(BlockMethod):
    """Low-rank updates of chosen linear layers in every block; folds into the weights (``merge``).

    The default adapts q and v as the paper does and starts A as the released code does.
    """

    name: ClassVar[str] = "lora"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 4e-3}

    rank: int = 8  # r
    alpha: float = 8  # α; the update is scaled by α / r
    dropout: float = 0.0  # rate on the input of A
    targets: tuple[str, ...] = ("q", "v")  # out of q, k, v, qkv, proj, proj_output, fc1, fc2
    rslora: bool = False  # scale by α / √r instead
    dora: bool = False  # learn the length of every weight row apart from its direction
    init: str = "kaiming"  # of A; "kaiming": uniform within ±1/√in; "gaussian": normal with σ = 1 / r

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rank=self.rank, alpha=self.alpha)
        probability(dropout=self.dropout)
        one_of("init", self.init, ("kaiming", "gaussian"))
        some_of("targets", self.targets, TARGETS)
        if "qkv" in self.targets and set("qkv") & set(self.targets):
            raise ValueError(f"targets name qkv and single slices of it; got {self.targets}: take either")
        if self.dora and "proj_output" in self.targets:
            raise ValueError(
                "DoRA learns the length of the rows of a weight, proj_output is a map of an output and has no weight: "
                "take targets without proj_output, or dora=False"
            )

    @classmethod
    def as_published(cls, **fields: Any) -> "LoRA":
        """Give the released code: A from kaiming_uniform(a=√5), which is the default here too."""
        return cls(**fields)

    @classmethod
    def as_in_paper(cls, **fields: Any) -> "LoRA":
        """Give the paper: A from a Gaussian, where the released code draws uniformly; σ = 1 / r is HF PEFT's choice."""
        return cls(**{"init": "gaussian", **fields})

    @property
    def scaling(self) -> float:
        """s, the factor on B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            slices = [t for t in self.targets if t in ("q", "k", "v") and is_fused(block)]
            if slices:
                (qkv,) = linears(block, "qkv")
                self._check_rank(qkv.in_features, qkv.out_features)
                rows = dict(zip("qkv", self._weight(qkv).chunk(3), strict=True))
                updates = {name: LowRank(rows[name], self) for name in rows if name in slices}
                graft(qkv, LoRAQKV, lora=nn.ModuleDict(updates))
            for target in self.targets:
                if target not in (*slices, "proj_output"):
                    layers = linears(block, target)
                    for sharing in [layers] if target == "qkv" else [[layer] for layer in layers]:
                        self._attach_to(sharing)
            if "proj_output" in self.targets:  # after proj, whose update is part of the output
                (proj,) = linears(block, "proj")
                graft(proj, LoRAOutput, lora_output=LowRank(self._output_map(proj), self))

    def _attach_to(self, layers: list[nn.Linear]) -> None:
        """Graft layers that share their A, which lives on the first."""
        self._check_rank(layers[0].in_features, sum(layer.out_features for layer in layers))
        first = None
        for layer in layers:
            update = LowRank(self._weight(layer), self, first)
            graft(layer, LoRALinear, lora=update)
            first = first or update

    def _weight(self, linear: nn.Linear) -> Tensor:
        if self.dora and (others := kinds(linear)):
            raise ValueError(
                f"DoRA normalises the weight of a plain linear layer, this one carries {others[-1].__name__}: "
                "attach LoRA(dora=True) first"
            )
        return linear.weight

    def _output_map(self, linear: nn.Linear) -> Tensor:
        channels = linear.out_features
        self._check_rank(channels, channels)
        return torch.empty(channels, channels, device="meta")  # only its shape is of use

    def _check_rank(self, in_features: int, out_features: int) -> None:
        full = min(in_features, out_features)
        if self.rank > full:
            raise ValueError(
                f"rank={self.rank} is above the full rank of a layer from {in_features} to {out_features} channels: "
                f"choose at most {full}"
            )
