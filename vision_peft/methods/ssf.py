"""SSF, scaling and shifting deep features (Lian et al., NeurIPS 2022, https://arxiv.org/abs/2210.08823).

Every operation of the backbone gets a scale γ and a shift β of its output channels:

    y ← γ ⊙ y + β

after norm1, qkv, the attention's projection, norm2, fc1 (before the activation) and fc2 of every block, after the patch
embedding and the final norm; on Swin also after the norms of patch embedding and patch merging.

Source: dongzelian/SSF@e94e0e7 models/vision_transformer.py, models/swin_transformer.py. γ starts from N(1, 0.02²) and β
from N(0, 0.02²), as there: the start is close to the pretrained function, not equal to it. Neither decays (training
decays matrices only). As there, the last pair acts on all tokens before pooling, also where the norm comes after it.
Deviations: none on ViT. BEiT and EVA add their qkv bias b behind the layer, so that γ scales W x alone there; β makes
up for the missing γ ⊙ b, and the same functions are reached. Both first layers of a SwiGLU get a pair.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.layers import PatchEmbed, RmsNorm
from timm.models import swin_transformer
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.method import Method
from vision_peft.tuning.timm_blocks import blocks, is_fused, linears, width


class SSFLast(Graft):
    """γ ⊙ y + β over the last axis: the output of a linear layer or a norm (..., C)."""

    ssf_scale: nn.Parameter
    ssf_shift: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.ssf_scale + self.ssf_shift

    def fold(self) -> None:
        _fold(self)


class SSFMap(Graft):
    """γ ⊙ y + β over the channels of a feature map (B C H W, of clips B C T H W): the patch embedding."""

    ssf_scale: nn.Parameter
    ssf_shift: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        shape = (-1, *[1] * (y.ndim - 2))
        return y * self.ssf_scale.view(shape) + self.ssf_shift.view(shape)

    def fold(self) -> None:
        _fold(self)


def _fold(layer: Any) -> None:
    base = next(cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith(("timm.", "torch.")))
    if isinstance(layer, nn.Identity):
        raise ValueError("the last scale and shift act before pooling, where this backbone has no norm to take them")
    if isinstance(layer, RmsNorm) or layer.bias is None:
        raise ValueError(f"a shift behind a {base} without a bias has nowhere to go")
    layer.weight *= layer.ssf_scale.view(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias *= layer.ssf_scale
    layer.bias += layer.ssf_shift


@dataclass(frozen=True)
class SSF(Method):
    """A scale and a shift of the output channels of every layer; folds into the weights (``merge``)."""

    name: ClassVar[str] = "ssf"

    def attach(self, model: Any) -> None:
        for block in blocks(model):
            projections = ("qkv",) if is_fused(block.attn) else ("q", "k", "v")
            for norm in (block.norm1, block.norm2):
                _scale_and_shift(norm, width(block))
            for target in (*projections, "proj", "fc1", "fc2"):
                for linear in linears(block, target):
                    _scale_and_shift(linear, linear.out_features)
        if not isinstance(model.patch_embed, PatchEmbed):
            raise ValueError(
                f"cannot scale and shift the patches of a {type(model.patch_embed).__name__}: wanted one convolution "
                "(timm's PatchEmbed)"
            )
        patches = model.patch_embed.proj
        graft(patches, SSFMap, **_pair(patches.out_channels))
        if isinstance(model.patch_embed.norm, nn.LayerNorm):
            _scale_and_shift(model.patch_embed.norm, patches.out_channels)
        if isinstance(model, swin_transformer.SwinTransformer):
            stages: Any = model.layers
            for merging in [stage.downsample for stage in stages]:
                if isinstance(merging, swin_transformer.PatchMerging):
                    _scale_and_shift(merging.norm, merging.reduction.in_features)
        _scale_and_shift(model.norm, model.num_features)


def _scale_and_shift(layer: nn.Module, channels: int) -> None:
    graft(layer, SSFLast, **_pair(channels))


def _pair(channels: int) -> dict[str, nn.Parameter]:
    scale, shift = 1 + 0.02 * torch.randn(channels), 0.02 * torch.randn(channels)
    return {"ssf_scale": nn.Parameter(scale), "ssf_shift": nn.Parameter(shift)}
