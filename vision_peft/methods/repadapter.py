"""RepAdapter (Luo et al., 2023, https://arxiv.org/abs/2302.08106).

A linear bottleneck with a skip between a block's frozen norm and the layer that reads it:

    z ← z + s · (B dropout(A z + a) + b),  z = LN₁ x in front of attention and z = LN₂ x in front of the MLP

B is block-diagonal with g groups. There is no activation, so that it folds into qkv and fc1:
T = I + s B A and t = s (B a + b) give W ← W T and b_W ← b_W + W t. Where the layer has no bias for that (BEiT's keys
have none and need none), or Swin pads its windows with zeros behind the norm, which b_W would move too, the shift goes
into the norm: b_LN ← b_LN + T⁻¹ t, the same function.

Source: luogen1996/RepAdapter@360992f repadapter.py. Deviations: LayerScale is kept and each half has its own
drop-path, both of which the official forward loses (it skips ls1 and ls2 and uses drop_path1 twice). The official code
chooses s out of 0.1, 0.5, 1, 5, 10 by task.

The adapter sits on the norm. Whatever else reads that norm reads the adapted output, as where the adapter is part of
the block: prompts of VPT-deep pass it like every token, and the branches of AdaptFormer (``input="block_norm"``) and of
Convpass read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import narrow_linear
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import KEEPS_WIDTH, width
from vision_peft.tuning.families import family_of_block
from vision_peft.tuning.graft import Graft, graft, kinds
from vision_peft.tuning.method import positive, probability, some_of
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norm_readers import INPUT_NORMS, fold_in_front, norm_readers


class GroupedBottleneck(nn.Module):
    """s · (B dropout(A z + a) + b) on tokens ``(..., D)``; ``up`` holds the diagonal blocks of B (g, D / g, h / g)."""

    def __init__(self, dim: int, method: "RepAdapter") -> None:
        super().__init__()
        groups = method.groups
        self.down_proj = nn.Linear(dim, method.bottleneck)
        self.up = nn.Parameter(torch.zeros(groups, dim // groups, method.bottleneck // groups))
        self.up_bias = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(method.dropout)
        self.scale = method.scale
        nn.init.xavier_uniform_(self.down_proj.weight)
        nn.init.zeros_(self.down_proj.bias)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.dropout(narrow_linear(z, self.down_proj.weight, self.down_proj.bias)).unflatten(
            -1, (self.up.shape[0], -1)
        )
        return self.scale * (torch.einsum("gdh,...gh->...gd", self.up, hidden).flatten(-2) + self.up_bias)

    def dense(self) -> tuple[Tensor, Tensor]:
        """T - I (D, D) and t (D)."""
        B = torch.block_diag(*self.up)
        return self.scale * B @ self.down_proj.weight, self.scale * (B @ self.down_proj.bias + self.up_bias)


class RepAdapterNorm(Graft):
    """A norm with the adapter behind it."""

    token_wise = True
    repadapter: GroupedBottleneck
    repadapter_readers: tuple[nn.Linear, ...]  # layers that read this norm; they live elsewhere
    repadapter_block: tuple[Any]  # the block, in a tuple so as to be no child of its own norm
    repadapter_padded: bool  # zeros may join the tokens between this norm and its readers

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return z + self.repadapter(z)

    def fold(self) -> None:
        later = kinds(self)[kinds(self).index(RepAdapterNorm) + 1 :]
        if later:
            raise ValueError(f"{later[0].__name__} was attached behind the adapter on the same norm: attach it first")
        (block,) = self.repadapter_block
        readers = list(self.repadapter_readers)
        fold_in_front(block, self, readers, *self.repadapter.dense(), padded=self.repadapter_padded)


@dataclass(frozen=True)
class RepAdapter(BlockMethod):
    """Linear adapters in front of attention and MLP of every block; folds into the weights (``merge``)."""

    name: ClassVar[str] = "repadapter"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 1e-2}

    bottleneck: int = 8  # hidden channels h
    groups: int = 2  # diagonal blocks g of B; divides h and the width
    scale: float = 1.0  # s
    sites: tuple[str, ...] = ("attn", "mlp")  # halves of the block with an adapter; ("attn",): the code's "repattn"
    dropout: float = 0.1  # rate between A and B

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(bottleneck=self.bottleneck, groups=self.groups, scale=self.scale)
        probability(dropout=self.dropout)
        some_of("sites", self.sites, ("attn", "mlp"))
        if self.bottleneck % self.groups:
            raise ValueError(f"groups must divide bottleneck={self.bottleneck}; got groups={self.groups}")

    @property
    def needs(self) -> tuple[Need, ...]:
        return (INPUT_NORMS, KEEPS_WIDTH) if "attn" in self.sites else (INPUT_NORMS,)

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        for block in self.chosen_blocks(model):
            if width(block) % self.groups:
                raise ValueError(f"groups must divide the width {width(block)} of the block; got {self.groups}")
            for site in self.sites:
                for norm, readers in norm_readers(block, site):
                    children: dict[str, Any] = {
                        "repadapter": GroupedBottleneck(width(block), self),
                        "repadapter_readers": tuple(readers),
                        "repadapter_block": (block,),
                        "repadapter_padded": site == "attn" and family_of_block(block).pads_windows(block),
                    }
                    graft(norm, RepAdapterNorm, **children)
