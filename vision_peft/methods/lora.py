"""LoRA (Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685).

A low-rank update beside frozen linear layers: y = W x + b + s · B A dropout(x), s = α / r.

``targets=("q", "v")`` is the paper's: one A, B pair per slice, also on timm's fused ``qkv``. ``targets=("qkv",)`` is
what NOAH and HF peft do on fused layers: one A shared by q, k and v, which is another function of as many parameters.
Where q, k and v are layers of their own (EVA-02 base, grouped heads) they share one A in the same way, a B for each.

``targets="all-linear"`` is every linear layer of the backbone, each with a pair of its own, without the head, which
trains whole (HF peft adapts it on timm models), and where there are no transformer blocks (ConvNeXt) every convolution
not in groups, A in the shape of its kernels; layers too narrow for the rank are left out. ``patch_embed`` is the
convolution in front. ``targets=("proj_output",)`` is what adapter_plus calls ``o``: a map of what attention's
projection puts out, y = o + s · B A dropout(o) with o = W x + b, the updated output beside ``proj``, which folds as
W ← (I + s · B A) W and b ← (I + s · B A) b.

rsLoRA (https://arxiv.org/abs/2312.03732): s = α / √r, so that the update keeps its size as r grows.
DoRA (https://arxiv.org/abs/2402.09353): length and direction of every row of the weight learn apart, y =
g ⊙ (W x + s · B A dropout(x)) + b, g = m / ‖W + s · B A‖ by row, the norm a constant to the gradient, m ← ‖W‖ at first.
``init``: see ``tuning/low_rank_starts.py`` (PiSSA, OLoRA, ...) and ``tuning/input_directions.py`` (EVA).
``expert_dropout`` is MLAE's (https://arxiv.org/abs/2405.18897): each of the r rank-1 updates is left out whole.

Source: microsoft/LoRA loralib/layers.py; HF peft 0.21 tuners/lora; visinf/adapter_plus@191c4ab
adapter_plus/vit_adapter.py. Deviations: every B draws its own dropout mask in front of A, also where layers share A;
under dropout HF's DoRA feeds the dropped x to (g - 1) ⊙ W x as well, here W sees the whole x; adapter_plus starts A and
B at random, here B starts at 0. Under PiSSA and OLoRA HF writes W - s · B₀ A₀ over W; here W stays and s · B₀ A₀ x is
subtracted beside it, so that ``detach``, ``disabled`` and fingerprints see W; a whole ``state_dict`` holds A₀ and B₀
too, an adapter, which loads onto the same W, does not. MLAE trains a factor each, here it is s.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.input_directions import choose_directions
from vision_peft.tuning.layer_patterns import check_names, check_positive, check_ranks, value_at
from vision_peft.tuning.linear_sites import ALL_LINEAR, PATCH_EMBED, PATCH_WEIGHT, PROJ_OUTPUT, Site, find_sites
from vision_peft.tuning.low_rank import LowRank
from vision_peft.tuning.low_rank_layers import graft_updates, restart_updates, update_of
from vision_peft.tuning.low_rank_starts import draw_start
from vision_peft.tuning.method import one_of, positive, probability, some_of
from vision_peft.tuning.needs import Need
from vision_peft.tuning.samples import SamplesNeeded

TARGETS = ("q", "k", "v", "qkv", "proj", PROJ_OUTPUT, "fc1", "fc2", PATCH_EMBED, ALL_LINEAR)
OF_WEIGHT = ("pissa", "olora")  # starts that are parts of the frozen weight
SAME_PART = 1e-3  # how far two factorisations of one weight may differ


@dataclass(frozen=True)
class LoRA(BlockMethod):
    """Low-rank updates of chosen linear layers in every block; folds into the weights (``merge``).

    The default adapts q and v as the paper does and starts A as the released code does.
    """

    name: ClassVar[str] = "lora"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    rank: int = 8  # r
    alpha: float = 8  # α; the update is scaled by α / r
    dropout: float = 0.0  # rate on the input of A
    # Out of q, k, v, qkv, proj, proj_output, fc1, fc2, patch_embed; or "all-linear", which leaves the head out.
    targets: tuple[str, ...] = ("q", "v")
    rslora: bool = False  # scale by α / √r instead
    dora: bool = False  # learn the length of every weight row apart from its direction
    # Of A: "kaiming": uniform within ±1/√in; "gaussian": normal with σ = 1 / r; "eva": from ``samples``, with ranks.
    # Of A and B: "orthogonal"; "pissa", "olora": parts of the frozen weight, which are taken off it.
    init: str = "kaiming"
    _: KW_ONLY
    rank_pattern: dict[str, int] = field(default_factory=dict, hash=False)  # layer or end of its name -> r; 0: left out
    alpha_pattern: dict[str, float] = field(default_factory=dict, hash=False)  # layer or end of its name -> α
    lora_bias: bool = False  # learn a bias behind B
    expert_dropout: float = 0.0  # rate at which rank-1 updates are left out, one draw for a forward
    eva_images: int = 128  # images behind init="eva"
    eva_rho: float = 2.0  # init="eva" gives a layer at most this many times its rank; 1: ranks stay

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rank=self.rank, alpha=self.alpha, eva_images=self.eva_images)
        probability(dropout=self.dropout, expert_dropout=self.expert_dropout)
        one_of("init", self.init, ("kaiming", "gaussian", "orthogonal", "pissa", "olora", "eva"))
        some_of("targets", self.targets, TARGETS)
        self._check_targets()
        check_ranks("rank_pattern", self.rank_pattern)
        check_positive("alpha_pattern", self.alpha_pattern)
        odd = [rank for rank in (self.rank, *self.rank_pattern.values()) if rank % 2]
        if self.init == "orthogonal" and odd:
            raise ValueError(f'init="orthogonal" shares the rank between A and B: wanted an even rank, got {odd[0]}')
        if self.eva_rho < 1:
            raise ValueError(f"eva_rho must be at least 1; got {self.eva_rho}")
        if self.dora and self.lora_bias:
            raise ValueError("DoRA rescales the weight and cannot include a bias after B: give lora_bias=False")

    def _check_targets(self) -> None:
        if "qkv" in self.targets and set("qkv") & set(self.targets):
            raise ValueError(f"qkv includes q, k and v; got {self.targets}: give only one")
        if ALL_LINEAR in self.targets and (others := set(self.targets) - {ALL_LINEAR, PATCH_EMBED}):
            raise ValueError(
                f"targets name all-linear and {', '.join(sorted(others))}, which it includes: give only one"
            )
        if self.dora and PROJ_OUTPUT in self.targets:
            raise ValueError(
                "DoRA learns the length of the rows of a weight, proj_output is a map of an output and has no weight: "
                "take targets without proj_output, or dora=False"
            )
        if PROJ_OUTPUT in self.targets and self.init in (*OF_WEIGHT, "eva"):
            raise ValueError(
                f"init={self.init!r} starts from a weight or its input, proj_output has neither: take targets without "
                "proj_output, or another init"
            )
        if PATCH_EMBED in self.targets and self.init == "eva":
            raise ValueError(
                'init="eva" reads tokens, which the patch embedding makes: take targets without patch_embed'
            )

    @classmethod
    def choose_title(cls, fields: Mapping[str, Any]) -> str:
        named = {"dora": "DoRA", "rslora": "rsLoRA"}
        found = [title for field, title in named.items() if fields.get(field) is True]
        found += [title for title in ("PiSSA", "OLoRA", "EVA") if fields.get("init") == title.lower()]
        return found[0] if len(found) == 1 else "LoRA"

    @classmethod
    def as_published(cls, **fields: Any) -> "LoRA":
        """Give the released code: A from kaiming_uniform(a=√5), which is the default here too."""
        return cls(**fields)

    @classmethod
    def as_in_paper(cls, **fields: Any) -> "LoRA":
        """Give the paper: A from a Gaussian, where the released code draws uniformly; σ = 1 / r is HF PEFT's choice."""
        return cls(**{"init": "gaussian", **fields})

    @property
    def needs(self) -> tuple[Need, ...]:
        if self.targets == (ALL_LINEAR,) and self.blocks == "all":
            return ()
        return (*super().needs, PATCH_WEIGHT) if PATCH_EMBED in self.targets else super().needs

    @property
    def starts_as_identity(self) -> bool:
        return True

    @property
    def samples_needed(self) -> SamplesNeeded | None:
        return SamplesNeeded("to see what its layers read", total=self.eva_images) if self.init == "eva" else None

    @property
    def remark(self) -> str | None:
        return "all-linear leaves the head out, which trains whole" if ALL_LINEAR in self.targets else None

    @property
    def starts_from_weights(self) -> bool:
        return self.dora or self.init in OF_WEIGHT

    def find_misfit(self, model: nn.Module) -> str | None:
        if self.init not in OF_WEIGHT:
            return None
        for site in self._sites(model):
            rank, alpha = self.size_of(site.name)
            start = draw_start(self.init, torch.cat(site.weights), rank, self.scaling_of(rank, alpha))
            wanted = start.B @ start.A.flatten(1)
            taken = torch.cat([update_of(site, layer).taken_off() for layer in site.layers]).to(wanted)
            if (taken - wanted).norm() > SAME_PART * wanted.norm():
                return (
                    f"init={self.init!r} takes a part of {site.name} off that it made of the weights before, and a "
                    "load of the adapter would take off one of the weights of now: load weights first and attach then, "
                    "or keep what this model computes with vp.merge(model)"
                )
        return None

    def scaling_of(self, rank: int, alpha: float) -> float:
        """Return s at another rank and α."""
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def size_of(self, site: str) -> tuple[int, float]:
        """Return rank and α of a layer by its name."""
        return value_at(self.rank_pattern, site, self.rank), value_at(self.alpha_pattern, site, self.alpha)

    def attach(self, model: nn.Module) -> None:
        graft_updates(self._sites(model), self._updates)

    def initialise(self, model: nn.Module, samples: Iterable[Any] | None) -> "LoRA | None":
        if self.init != "eva" or samples is None:
            return None
        ranks = {site: self.size_of(site.name)[0] for site in self._sites(model)}
        chosen = choose_directions(model, ranks, self.eva_rho, samples)
        alphas: dict[str, float] = {}
        for site, A in chosen.items():
            if rank := len(A):  # s stays what it was
                alphas[site.name] = self.scaling_of(*self.size_of(site.name)) * (
                    math.sqrt(rank) if self.rslora else rank
                )
            restart_updates(site, A, self.scaling_of(rank, alphas[site.name]) if rank else 0.0)
        return replace(self, rank_pattern={site.name: len(A) for site, A in chosen.items()}, alpha_pattern=alphas)

    def _sites(self, model: nn.Module) -> list[Site]:
        sites = find_sites(model, self.chosen_blocks_if_any(model), self.targets, self.chosen_modules(model))
        patterns = {"rank_pattern": self.rank_pattern, "alpha_pattern": self.alpha_pattern}
        check_names(patterns, [site.name for site in sites])
        ranks = {site: self.size_of(site.name)[0] for site in sites}
        kept = [site for site in sites if ranks[site] and not (site.optional and site.full_rank < ranks[site])]
        for site in kept:
            site.check_rank(ranks[site])
        if not kept:
            raise ValueError("rank_pattern leaves no layer to adapt: give at least one a rank above 0")
        return kept

    def _updates(self, site: Site) -> list[LowRank]:
        """Make one update for each layer of ``site``; they share the A of the first."""
        rank, alpha = self.size_of(site.name)
        scaling = self.scaling_of(rank, alpha)
        weights = site.weights
        if site.target == PROJ_OUTPUT:
            weights = [torch.empty(len(weights[0]), len(weights[0]), device="meta")]  # only its shape is of use
        if self.dora:
            site.check_bare()
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        settings: dict[str, Any] = {"dropout": self.dropout, "expert_dropout": self.expert_dropout}
        settings |= {"dora": self.dora, "bias": self.lora_bias}
        updates: list[LowRank] = []
        starts = draw_start(self.init, whole, rank, scaling).split([len(weight) for weight in weights])
        for weight, start in zip(weights, starts, strict=True):
            updates.append(LowRank(weight, start, scaling, updates[0] if updates else None, **settings))
        return updates
