"""Mona, multi-cognitive visual adapter (Yin et al., CVPR 2025, https://arxiv.org/abs/2408.08345).

A bottleneck with depthwise convolutions of three sizes on the residual stream itself, behind attention and behind the
MLP of every block, where each has joined the stream:

    M(x) = x + W₂ dropout(GELU(conv(W₁ u + b₁))) + b₂,   u = γ ⊙ LN(x) + γₓ ⊙ x,
    conv:  z ← z + (DW₃ z + DW₅ z + DW₇ z) / 3,   z ← z + W_1×1 z + b.

γ starts at 10⁻⁶ and γₓ at 1, W₁ and W₂ with σ = 0.02, the convolutions as ``nn.Conv2d`` does: the start is not the
pretrained function. Drop-path of a block acts on attention and MLP, not on M.

Written from the paper and a description of Leiyi-Hu/mona@5deeac9, which has no licence of its own and knows Swin only.
On a flat ViT these are choices of ours: the patches are convolved on their grid, the time steps of tubelets one by one,
and a prefix token (class, register, prompt) as an image of one pixel, which meets the centre tap of every kernel.
Deviations: timm's Swin shifts no windows where one covers the map, the detection Swin of that code does; M acts on what
the block and the methods attached before it give, a norm that ends a block on what M gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import width
from vision_peft.tuning.graft import graft
from vision_peft.tuning.method import positive, probability
from vision_peft.tuning.needs import Need
from vision_peft.tuning.patch_grid import PATCH_GRID, GridBlock, GridNow, patch_grid, time_steps

KERNELS = (3, 5, 7)


class Adapter(nn.Module):
    """M(x) on tokens (B N D), whose last steps x rows x columns are the patches, or on a map (B H W D)."""

    def __init__(self, dim: int, grid: GridNow | None, steps: int, method: "Mona") -> None:
        super().__init__()
        self.grid, self.steps = grid, steps
        inner = method.width
        self.norm = nn.LayerNorm(dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(dim))
        self.down_proj = nn.Linear(dim, inner)
        self.depthwise = nn.ModuleList(nn.Conv2d(inner, inner, k, padding=k // 2, groups=inner) for k in KERNELS)
        self.pointwise = nn.Conv2d(inner, inner, 1)
        self.dropout = nn.Dropout(method.dropout)
        self.up_proj = nn.Linear(inner, dim)
        for layer in (self.down_proj, self.up_proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = self.down_proj(self.gamma * self.norm(x) + self.gammax * x)
        z = self._convolve_map(z) if self.grid is None else self._convolve_tokens(z, *self.grid.now())
        return x + self.up_proj(self.dropout(F.gelu(z)))

    def _convolve_tokens(self, z: Tensor, rows: int, columns: int) -> Tensor:
        prefix, patches = z.tensor_split([z.shape[1] - self.steps * rows * columns], dim=1)
        maps = self._convolve_map(patches.unflatten(1, (self.steps, rows, columns)).flatten(0, 1))
        pixels = self._convolve_map(prefix.reshape(-1, 1, 1, prefix.shape[-1])).view_as(prefix)
        return torch.cat([pixels, maps.unflatten(0, (-1, self.steps)).flatten(1, 3)], dim=1)

    def _convolve_map(self, z: Tensor) -> Tensor:
        z = z.permute(0, 3, 1, 2)
        first, second, third = (conv(z) for conv in self.depthwise)
        z = z + (first + second + third) / 3
        return (z + self.pointwise(z)).permute(0, 2, 3, 1)


class MonaBlock(GridBlock):
    """Passes the residual stream through M behind either half."""

    mona: Any  # nn.ModuleList of two Adapter

    def grid_now(self) -> GridNow | None:
        return self.mona[0].grid

    def attn_half(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.mona[0](super().attn_half(x, **kwargs))

    def mlp_half(self, x: Tensor) -> Tensor:
        return self.mona[1](super().mlp_half(x))


@dataclass(frozen=True)
class Mona(BlockMethod):
    """Bottlenecks with convolutions of three sizes on the residual stream, two a block; made for Swin."""

    name: ClassVar[str] = "mona"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-3}

    width: int = 64  # channels between W₁ and W₂
    dropout: float = 0.1  # rate in front of W₂

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(width=self.width)
        probability(dropout=self.dropout)

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, PATCH_GRID)

    def attach(self, model: nn.Module) -> None:
        grid = patch_grid(model)
        steps = 1 if grid is None else time_steps(model)
        for block in self.chosen_blocks(model):
            pair = [Adapter(width(block), grid, steps, self) for _ in range(2)]
            graft(block, MonaBlock, mona=nn.ModuleList(pair))
