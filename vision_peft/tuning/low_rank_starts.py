"""Start values of a low-rank update, from the generator or from the frozen weight.

``kaiming``, ``gaussian``: A uniform within ±1/√in or normal with σ = 1/r, B zero (microsoft/LoRA; HF peft).
``orthogonal`` (https://datta0.github.io/posts/rethink-lora-init; HF peft 0.21): neither is zero, their product is. Of
an orthogonal r x r matrix, A mixes every second row and B the others, each by N(0, 0.1²).
``pissa`` (Meng et al., NeurIPS 2024, https://arxiv.org/abs/2404.02948): with W = U S Vᵀ and the scaling s,
A₀ = √(S_r / s) V_rᵀ and B₀ = U_r √(S_r / s), the principal part of W, which is taken off the frozen weight.
``olora`` (Büyükakyüz 2024, https://arxiv.org/abs/2406.01775): with W = Q R, A₀ = R[:r] and B₀ = Q[:, :r]; s · B₀ A₀ is
taken off the frozen weight.

The exact SVD and QR, not the randomised ones: nothing but the original weight is needed to make A₀ and B₀ again.
Singular pairs are known up to their sign, which B₀ A₀ does not show.
"""

import math

import torch
from torch import Tensor, nn

from vision_peft.tuning.low_rank import Start


def draw_start(init: str, weight: Tensor, rank: int, scaling: float) -> Start:
    """Draw A (rank, in) and B (out, rank) for ``weight`` (out, in), or (out, in, k, k) of a convolution."""
    out, inner = len(weight), weight.shape[1:]
    wide = torch.promote_types(weight.dtype, torch.float32)  # what is factorised keeps the precision of the weights
    if init in ("pissa", "olora"):
        A, B = _factorise(init, weight.detach().flatten(1).to(wide), rank, scaling)
        return Start(A.unflatten(1, inner), B, subtract=True)
    if init == "orthogonal":
        Q, _ = torch.linalg.qr(torch.randn(rank, rank).to(wide))
        A = (torch.randn(inner.numel(), rank // 2).to(wide) @ Q[0::2]).T / 10
        B = torch.randn(rank // 2, out).to(wide).T @ Q[1::2] / 10
        return Start(A.contiguous().unflatten(1, inner), B)
    A = torch.empty(rank, *inner)
    if init == "gaussian":
        nn.init.normal_(A, std=1 / rank)
    else:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return Start(A, torch.zeros(out, rank))


def _factorise(init: str, weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    if not weight.is_meta and not weight.isfinite().all():
        raise ValueError(f"init={init!r} factorises the frozen weights, and one of them holds NaN or infinity")
    if init == "olora":
        Q, R = torch.linalg.qr(weight)
        return R[:rank].contiguous(), Q[:, :rank].contiguous()
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    roots = (S[:rank] / scaling).sqrt()
    return roots.unsqueeze(1) * Vh[:rank], U[:, :rank] * roots
