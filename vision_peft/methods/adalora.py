"""AdaLoRA, adaptive budget allocation (Zhang et al., ICLR 2023, https://arxiv.org/abs/2303.10512).

An update in the form of a singular value decomposition beside frozen linear layers:

    y = W x + b + s · B (E ⊙ A) dropout(x),  s = α / (r + 10⁻⁵)

with A (r, in), one value E per row, B (out, r). All layers start from r rows; the sum over layers, the budget, falls to
the target by a cubic schedule, and the rows that matter least lose their value E:

    I = |p · ∂L/∂p|,  Ī ← β₁ Ī + (1 - β₁) I,  U ← β₂ U + (1 - β₂) |I - Ī|,  score of an entry = Ī · U

and the score of a row is that of its E plus the means over its row of A and its column of B. A row that lost its E gets
it back where later steps score it higher, until the budget is fixed for the last steps.

Scores need the gradient of each step: ``vp.finish_step(model, step, total_steps)`` between ``optimizer.step()`` and
``zero_grad``, as the trainer here does. They are kept in training states, not in adapters.

Source: HF peft 0.21 tuners/adalora/layer.py and model.py. Deviations: steps before and after the allocation are shares
of the training, not numbers. The paper's penalty, which keeps A and B orthogonal, is left out, as HF peft does on a
timm model, whose output carries no loss. A budget as large as the number of rows prunes none, where HF raises. Dropped
rows stay in the file, with E at 0.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.graft import Graft, graft, grafts, kinds
from vision_peft.tuning.linear_sites import ALL_LINEAR, find_sites
from vision_peft.tuning.method import positive, probability, some_of

TARGETS = ("qkv", "proj", "fc1", "fc2", ALL_LINEAR)


class SVDUpdate(nn.Module):
    """s · B (E ⊙ A) for a linear layer."""

    def __init__(self, in_features: int, out_features: int, method: "AdaLoRA") -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(method.rank, in_features) * 0.02)
        self.E = nn.Parameter(torch.zeros(method.rank, 1))
        self.B = nn.Parameter(torch.randn(out_features, method.rank) * 0.02)
        self.dropout = nn.Dropout(method.dropout)
        self.scaling = method.alpha / (method.rank + 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.A * self.E), self.B) * self.scaling

    def dense(self) -> Tensor:
        """Return the update as a dense matrix (out, in)."""
        return self.B @ (self.A * self.E) * self.scaling


class Scores(nn.Module):
    """Running averages of what the entries of an update matter and of how that wavers, and the rows that are kept."""

    kept: Tensor  # (r), once the budget is fixed
    fixed: Tensor

    def __init__(self, update: SVDUpdate) -> None:
        super().__init__()
        for name, parameter in update.named_parameters():
            self.register_buffer(f"importance_{name}", torch.zeros_like(parameter, requires_grad=False))
            self.register_buffer(f"uncertainty_{name}", torch.zeros_like(parameter, requires_grad=False))
        self.register_buffer("kept", torch.ones(len(update.A), dtype=torch.bool, device=update.A.device))
        self.register_buffer("fixed", torch.zeros((), dtype=torch.bool, device=update.A.device))

    def observe(self, update: SVDUpdate, beta1: float, beta2: float) -> None:
        """Take in the parameters after a step and the gradients that led to it."""
        for name, parameter in update.named_parameters():
            importance, uncertainty = self.get_buffer(f"importance_{name}"), self.get_buffer(f"uncertainty_{name}")
            now = torch.zeros_like(parameter) if parameter.grad is None else (parameter * parameter.grad).abs()
            importance.mul_(beta1).add_(now, alpha=1 - beta1)
            uncertainty.mul_(beta2).add_((now - importance).abs(), alpha=1 - beta2)

    def of_rows(self) -> Tensor:
        """Return the score of each row (r)."""
        A, E, B = (self.get_buffer(f"importance_{name}") * self.get_buffer(f"uncertainty_{name}") for name in "AEB")
        return E.flatten() + A.mean(1) + B.mean(0)


class AdaLoRALinear(Graft):
    """A linear layer with an update of adaptive rank."""

    token_wise = True
    adalora: SVDUpdate
    adalora_scores: Scores | None
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.adalora(x) + super().forward(x)

    def fold(self) -> None:
        self.weight += self.adalora.dense()

    def bake(self) -> dict[str, Tensor | None]:
        return {} if self.adalora_scores is None else {"adalora_scores": None}


@dataclass(frozen=True)
class AdaLoRA(BlockMethod):
    """Low-rank updates that share one budget of ranks; folds into the weights (``merge``)."""

    name: ClassVar[str] = "adalora"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-2}

    rank: int = 12  # r, rows of every layer at the start
    target_rank: float = 8  # rows of a layer at the end, on average
    alpha: float = 8  # α; the update is scaled by α / r
    dropout: float = 0.0  # rate on the input of A
    targets: tuple[str, ...] = ("qkv",)  # out of qkv, proj, fc1, fc2; or "all-linear", which leaves the head out
    warmup: float = 0.1  # share of the steps before the budget falls
    final: float = 0.3  # share of the steps with the rows that were chosen last
    every: int = 1  # steps from one allocation to the next
    beta1: float = 0.85  # of the average of importance
    beta2: float = 0.85  # of the average of its uncertainty
    _: KW_ONLY
    allocate: bool = True  # false: rows stay as they are, as in a loaded adapter

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rank=self.rank, target_rank=self.target_rank, alpha=self.alpha, every=self.every)
        probability(dropout=self.dropout, warmup=self.warmup, final=self.final, beta1=self.beta1, beta2=self.beta2)
        some_of("targets", self.targets, TARGETS)
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise ValueError(f"all-linear includes all other targets; got {self.targets}: give only one")
        if self.target_rank > self.rank:
            raise ValueError(f"target_rank must be at most rank={self.rank}; got {self.target_rank}")
        if self.warmup + self.final > 1:
            raise ValueError(f"warmup and final are shares of one training; got {self.warmup} + {self.final}")

    @property
    def starts_as_identity(self) -> bool:
        return True

    @property
    def remark(self) -> str | None:
        return "all-linear leaves the head out, which trains whole" if ALL_LINEAR in self.targets else None

    def baked(self) -> "AdaLoRA":
        return replace(self, allocate=False)

    def attach(self, model: nn.Module) -> None:
        chosen, tuned = self.chosen_blocks(model), self.chosen_modules(model)
        for site in find_sites(model, chosen, self.targets, tuned, share=False):
            if site.optional and site.full_rank < self.rank:
                continue
            site.check_rank(self.rank)
            (layer,) = site.layers
            update = SVDUpdate(layer.in_features, layer.out_features, self)
            graft(layer, AdaLoRALinear, adalora=update, adalora_scores=Scores(update) if self.allocate else None)

    def finish_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        layers: list[Any] = [module for _, module in grafts(model) if AdaLoRALinear in kinds(module)]
        pairs = [(layer.adalora, layer.adalora_scores) for layer in layers if layer.adalora_scores is not None]
        if not pairs:
            return
        first, last = round(self.warmup * total_steps), total_steps - round(self.final * total_steps)
        if step < last:
            for update, scores in pairs:
                scores.observe(update, self.beta1, self.beta2)
        allocating = first < step < last and step % self.every == 0
        if allocating or (step >= last and not pairs[0][1].fixed):
            rows = len(pairs) * self.rank
            left = max(1 - (step - first) / max(last - first, 1), 0) ** 3
            target = max(int(self.target_rank * len(pairs)), 1)
            _choose_rows([scores for _, scores in pairs], rows - int((rows - target) * left + target))
            for _, scores in pairs:
                scores.fixed.fill_(step >= last)
        if allocating or step >= last:
            for update, scores in pairs:
                update.E.masked_fill_(~scores.kept.unsqueeze(1), 0.0)


def _choose_rows(layers: list[Scores], dropped: int) -> None:
    """Keep the rows of all ``layers`` but the ``dropped`` ones of lowest score and those of equal score."""
    rows = [scores.of_rows() for scores in layers]
    limit = torch.cat(rows).kthvalue(dropped).values if dropped else torch.tensor(-1.0, device=rows[0].device)
    for scores, own in zip(layers, rows, strict=True):
        scores.kept.copy_(own > limit)
