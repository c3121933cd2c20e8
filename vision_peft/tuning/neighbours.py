"""A head that votes: what the nearest of the kept training images are, in place of a classifier that was trained.

    s_i = cos(f, f_i)        w_i = exp(s_i / τ) for the k largest s_i        p(c) = Σ_{i of class c} w_i / Σ_i w_i

Its logits are log p, so that probabilities are shares of votes; a class without a vote has 1e-6.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.head_kinds import Neighbours

LEAST = 1e-6


class NeighbourHead(nn.Module):
    """Features (B D) to the logarithm of shares of votes (B classes).

    The kept features have length 1 and fp16, half of what they take else; they and their labels are buffers, which an
    adapter folder holds as it holds any head.
    """

    bank: Tensor
    labels: Tensor

    def __init__(self, dim: int, num_classes: int, kind: Neighbours) -> None:
        super().__init__()
        self.kind, self.num_classes = kind, num_classes
        self.register_buffer("bank", torch.zeros(kind.images, dim, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(kind.images, dtype=torch.int64))

    @torch.no_grad()
    def fill(self, features: Tensor, labels: Tensor) -> None:
        """Keep features (images D) and their labels (images)."""
        self.bank.copy_(F.normalize(features.float(), dim=-1))
        self.labels.copy_(labels)

    def choose(self, k: int) -> None:
        """Let ``k`` neighbours vote from now on."""
        self.kind = replace(self.kind, k=k)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # bf16 would leave three digits of a cosine
            scores = F.normalize(features.float(), dim=-1) @ self.bank.float().T
        nearest, places = scores.topk(min(self.kind.k, self.kind.images), dim=-1)
        weights = ((nearest - 1) / self.kind.temperature).exp()  # the factor e^(1/τ) cancels
        votes = (F.one_hot(self.labels[places], self.num_classes) * weights.unsqueeze(-1)).sum(1)
        return (votes / weights.sum(-1, keepdim=True)).clamp_min(LEAST).log()
