"""Convpass, convolutional bypasses (Jie and Deng, 2022, https://arxiv.org/abs/2207.07039).

A bottleneck with a 3×3 convolution on the patch grid beside attention and beside the MLP of every block, on the output
n of the block's own frozen norm:

    x ← x + drop_path(attn(n)) + s · drop_path(CP(n)),  CP(n) = W_up dropout(φ(conv(φ(W_down n)))),  φ(z) = z σ(1.702 z)

A prefix token passes the convolution as an image of one pixel: the centre tap only. The time steps of tubelets are
convolved one by one.

Source: JieShibo/PETL-ViT@026e4f1 convpass/vtab/convpass.py. Deviations: any width, grid and number of prefix tokens
(768 channels, 14 x 14 and one are fixed there); LayerScale, which the official backbone lacks, scales the block's own
branch and not the bypass. On Swin, whose official variant has no class token either, the whole map is convolved.
The official code chooses by task: the convolution starts from Xavier (10 of 19 VTAB tasks) or the identity (9), and s
is one of 0.01, 0.1, 1, 10, 100.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import narrow_linear, widen
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import KEEPS_WIDTH, SINGLE_BRANCHES, attn_input, mlp_input, width
from vision_peft.tuning.families import family_of_block
from vision_peft.tuning.families.family import first_tokens
from vision_peft.tuning.graft import graft
from vision_peft.tuning.method import one_of, positive, probability, some_of
from vision_peft.tuning.needs import Need
from vision_peft.tuning.patch_grid import PATCH_GRID, GridBlock, GridNow, drop_path, patch_grid, time_steps


class Bypass(nn.Module):
    """s · CP(n) on tokens (B N D), whose last steps x rows x columns are the patches, or on a map (B H W D)."""

    def __init__(self, dim: int, grid: GridNow | None, steps: int, method: "Convpass") -> None:
        super().__init__()
        self.down_proj = nn.Linear(dim, method.bottleneck)
        self.conv = nn.Conv2d(method.bottleneck, method.bottleneck, 3, padding=1)
        self.up_proj = nn.Linear(method.bottleneck, dim)
        self.dropout = nn.Dropout(method.dropout)
        self.scale = method.scale
        self.grid, self.steps = grid, steps
        nn.init.xavier_uniform_(self.down_proj.weight)
        nn.init.zeros_(self.up_proj.weight)
        if method.init == "xavier":
            nn.init.xavier_uniform_(self.conv.weight)
        else:
            nn.init.dirac_(self.conv.weight)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, n: Tensor, prefix_only: bool = False) -> Tensor:
        z = _quick_gelu(narrow_linear(n, self.down_proj.weight, self.down_proj.bias))
        if prefix_only:
            z = self._convolve_prefix(z)
        else:
            z = self._convolve_map(z) if self.grid is None else self._convolve_tokens(z, *self.grid.now())
        return self.scale * widen(z, _quick_gelu, self.dropout, self.up_proj.weight, self.up_proj.bias)

    def _convolve_tokens(self, z: Tensor, rows: int, columns: int) -> Tensor:
        prefix, patches = z.tensor_split([z.shape[1] - self.steps * rows * columns], dim=1)
        maps = self._convolve_map(patches.unflatten(1, (self.steps, rows, columns)).flatten(0, 1))
        return torch.cat([self._convolve_prefix(prefix), maps.unflatten(0, (-1, self.steps)).flatten(1, 3)], dim=1)

    def _convolve_prefix(self, z: Tensor) -> Tensor:
        return F.linear(z, self.conv.weight[:, :, 1, 1], self.conv.bias)

    def _convolve_map(self, z: Tensor) -> Tensor:
        return self.conv(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _quick_gelu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(1.702 * z)


class ConvpassBlock(GridBlock):
    """Adds a bypass to one or both halves of a block; every bypass draws a drop-path mask of its own.

    Prefix tokens do not see patches in a bypass, so a last block that gives them alone has bypasses of them alone.
    """

    token_wise = True
    convpass: Any  # nn.ModuleDict of Bypass by half

    def grid_now(self) -> GridNow | None:
        return next(iter(self.convpass.values())).grid

    def attn_half(self, x: Tensor, queries: int | None = None, **kwargs: Any) -> Tensor:
        asked = {} if queries is None else {"queries": queries}
        y = super().attn_half(x, **kwargs, **asked)
        if "attn" in self.convpass:
            bypass, short = self.convpass["attn"], queries is not None
            added = bypass(attn_input(self, first_tokens(x, queries)), prefix_only=short)
            y = y + drop_path(family_of_block(self).drop_path(self, "attn"), added)
        return y

    def mlp_half(self, x: Tensor) -> Tensor:
        y = super().mlp_half(x)
        if "mlp" in self.convpass:
            short = x.ndim == 3 and x.shape[1] == vars(self).get("short_tokens")  # without a patch
            added = self.convpass["mlp"](mlp_input(self, x), prefix_only=short)
            y = y + drop_path(family_of_block(self).drop_path(self, "mlp"), added)
        return y


@dataclass(frozen=True)
class Convpass(BlockMethod):
    """Convolutional bypasses beside attention and MLP of every block."""

    name: ClassVar[str] = "convpass"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    bottleneck: int = 8  # hidden channels h of a bypass
    scale: float = 1.0  # s
    sites: tuple[str, ...] = ("attn", "mlp")  # halves of the block with a bypass; ("attn",): Convpass-attn
    dropout: float = 0.1  # rate in front of W_up
    init: str = "xavier"  # of the convolution: "xavier" or "identity"; W_up starts from zero

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(bottleneck=self.bottleneck, scale=self.scale)
        probability(dropout=self.dropout)
        one_of("init", self.init, ("xavier", "identity"))
        some_of("sites", self.sites, ("attn", "mlp"))

    @property
    def needs(self) -> tuple[Need, ...]:
        return (*super().needs, SINGLE_BRANCHES, PATCH_GRID, *((KEEPS_WIDTH,) if "attn" in self.sites else ()))

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        grid = patch_grid(model)
        steps = 1 if grid is None else time_steps(model)
        for block in self.chosen_blocks(model):
            bypasses = {site: Bypass(width(block), grid, steps, self) for site in self.sites}
            graft(block, ConvpassBlock, convpass=nn.ModuleDict(bypasses))
