"""Input tuning: what an image meets first trains, for images whose channels the backbone was not pretrained on.

    mixer        x' = M x  in front of the first convolution; M (C x C) over the channels of a pixel, identity at first
    patch_embed  the first convolution itself: the patch embedding of a ViT, the first layer of a stem

timm gives a pretrained first convolution other channels by repeating and scaling its weights (`adapt_input_conv`), so
that every channel starts as a copy of red, green or blue. A mixer learns what to show to the frozen weights in their
place, as the 1x1 convolution in front of pretrained RGB networks in remote sensing does; it folds into the convolution,
W' = W M. Attach it beside a method of the blocks (`method=lora +method_2=input_tuning`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.input_layer import FIRST_CONVOLUTION, find_first_convolution
from vision_peft.tuning.layers import check_plain
from vision_peft.tuning.method import Method, one_of
from vision_peft.tuning.needs import Need


class BandMixer(Graft):
    """conv(M x): the first convolution on channels (dimension 1) that M mixes."""

    band_mix: nn.Parameter  # C C
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        mix = self.band_mix[(..., *(None,) * (x.ndim - 2))]
        return super().forward((F.conv2d if x.ndim == 4 else F.conv3d)(x, mix))

    def fold(self) -> None:
        check_plain(self)
        self.weight.copy_(torch.einsum("oj...,ji->oi...", self.weight, self.band_mix))


@dataclass(frozen=True)
class InputTuning(Method):
    """A mixer of the channels in front of the first convolution trains, or that convolution itself."""

    name: ClassVar[str] = "input_tuning"
    title: ClassVar[str] = "input tuning"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-2}

    part: str = "mixer"  # mixer: C x C weights in front of the first convolution | patch_embed: the convolution itself

    def __post_init__(self) -> None:
        one_of("part", self.part, ("mixer", "patch_embed"))

    @property
    def needs(self) -> tuple[Need, ...]:
        return (FIRST_CONVOLUTION,)

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attach(self, model: nn.Module) -> None:
        layer = find_first_convolution(model)
        if self.part == "patch_embed":
            layer.requires_grad_(True)
        else:
            graft(layer, BandMixer, band_mix=nn.Parameter(torch.eye(layer.in_channels)))
