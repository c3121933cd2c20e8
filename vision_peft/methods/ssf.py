"""SSF, scaling and shifting deep features (Lian et al., NeurIPS 2022, https://arxiv.org/abs/2210.08823).

Every operation of the backbone gets a scale γ and a shift β of its output channels:

    y ← γ ⊙ y + β

after norm1, qkv, the attention's projection, norm2, fc1 (before the activation) and fc2 of every block, the patch
embedding and the final norm (of all tokens or, ``fc_norm``, of pooled ones); on Swin also the norms of patch merging.

Source: dongzelian/SSF@e94e0e7 models/vision_transformer.py, models/swin_transformer.py. γ starts from N(1, 0.02²) and β
from N(0, 0.02²), as there: the start is close to the pretrained function, not equal to it. Neither decays.
Deviations: where the final norm comes behind average pooling, the code's last pair acts on the last block's tokens
before pooling, which no weight of a plain model can take. Here it follows that norm and folds; ``as_published`` gives
the code's place. BEiT and EVA add their qkv bias b behind the layer, so that γ scales W x alone there; β makes up for
the missing γ ⊙ b. On BEiT, whose keys have no bias, their β is the same for every key and folds into nothing. Both
first layers of a SwiGLU get a pair.

A model without transformer blocks (ConvNeXt) gets a pair behind every norm, in front of its activation, and behind
every linear and ungrouped convolutional layer with a bias; without one, the norm behind the layer has a pair for both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.layers import LayerNorm, RmsNorm
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import scale_and_shift
from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import blocks, input_width, linears, separate_biases
from vision_peft.tuning.families import family_of, family_of_block
from vision_peft.tuning.graft import Graft, graft
from vision_peft.tuning.layers import body_layers, check_plain
from vision_peft.tuning.method import one_of
from vision_peft.tuning.needs import Need
from vision_peft.tuning.norm_readers import add_to_output
from vision_peft.tuning.norms import final_norm, makes_maps, norm_layers, token_norm


class SSFLast(Graft):
    """γ ⊙ y + β over the last axis: the output of a linear layer or a norm (..., C)."""

    token_wise = True
    ssf_scale: nn.Parameter
    ssf_shift: nn.Parameter
    ssf_overwritten: bool  # timm may change the output in place

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self
        alone = type(self).__bases__[1] in (nn.LayerNorm, LayerNorm)
        if alone and layer.bias is not None and not getattr(layer, "_fast_norm", False):
            weight, bias = layer.weight * self.ssf_scale, layer.bias * self.ssf_scale + self.ssf_shift
            return nn.functional.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        return scale_and_shift(super().forward(x), self.ssf_scale, self.ssf_shift, overwritten=self.ssf_overwritten)

    def fold(self) -> None:
        _fold(self)


class SSFProjection(SSFLast):
    """γ ⊙ y + β of queries, keys and values: their layer may have its bias elsewhere in the attention."""

    ssf_block: tuple[Any]  # the block, in a tuple so as to be no child of its own layer

    def fold(self) -> None:
        layer: Any = self
        layer.weight *= self.ssf_scale.unsqueeze(1)
        if layer.bias is not None:
            layer.bias *= self.ssf_scale
        add_to_output(self.ssf_block[0], layer, self.ssf_shift)


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


class SSFNorm(Graft):
    """γ ⊙ y + β of a norm that holds its activation: on the dropout (mostly none) between the two (B C H W)."""

    ssf_scale: nn.Parameter
    ssf_shift: nn.Parameter
    ssf_norm: tuple[Any]  # the norm, in a tuple so as to be no child of its own part

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2)) if makes_maps(self.ssf_norm[0]) else (-1,)
        return super().forward(x * self.ssf_scale.view(shape) + self.ssf_shift.view(shape))

    def fold(self) -> None:
        norm = self.ssf_norm[0]
        if getattr(norm, "bias", None) is None:
            raise ValueError(f"a shift behind a {type(norm).__name__} without a bias has nowhere to go")
        norm.weight *= self.ssf_scale
        norm.bias *= self.ssf_scale
        norm.bias += self.ssf_shift


def _fold(layer: Any) -> None:
    check_plain(layer)
    base = next(cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith(("timm.", "torch.")))
    if isinstance(layer, nn.Identity):
        where = '(last="final_norm" puts it behind the norm)'
        raise ValueError(f"a shift behind an Identity without a bias has nowhere to go {where}")
    if isinstance(layer, RmsNorm) or layer.bias is None:
        raise ValueError(f"a shift behind a {base} without a bias has nowhere to go")
    layer.weight *= layer.ssf_scale.view(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias *= layer.ssf_scale
    layer.bias += layer.ssf_shift


@dataclass(frozen=True)
class SSF(BlockMethod):
    """A scale and a shift of the output channels of every layer; folds into the weights (``merge``)."""

    name: ClassVar[str] = "ssf"
    recommended: ClassVar[Mapping[str, float]] = {"lr": 3e-3}

    last: str = "final_norm"  # what the last pair follows; "before_pooling": the last block, where the norm comes after

    @classmethod
    def as_published(cls) -> "SSF":
        """Give the official code: the last pair acts before pooling, also where the final norm comes after it."""
        return cls(last="before_pooling")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("last", self.last, ("final_norm", "before_pooling"))

    @property
    def needs(self) -> tuple[Need, ...]:
        return () if self.blocks == "all" else super().needs

    def attach(self, model: Any) -> None:
        chosen = self.chosen_modules(model)
        if not has_blocks(model):
            _attach_everywhere(model, chosen)
            return
        family = family_of(model)
        last = final_norm(model) if self.last == "final_norm" else token_norm(model)
        for block in self.chosen_blocks(model):
            for norm in family_of_block(block).norms(block):
                if norm is not last:
                    _scale_and_shift(norm)
            for linear in linears(block, "qkv"):
                biased = bool(separate_biases(block))  # which timm adds in place
                graft(linear, SSFProjection, ssf_block=(block,), **_pair(linear.out_features, biased))
            for target in ("proj", "fc1", "fc2"):
                for linear in linears(block, target):
                    _scale_and_shift(linear)
        patches, embedding = family.patch_projection(model), family.patch_embedding(model)
        convolutional = {inner for part in family.conv_parts(model) for inner in part.modules()}
        _attach_everywhere(model, chosen & convolutional)
        if patches is None and not convolutional and embedding in chosen:
            raise ValueError(f"cannot scale and shift patches of {type(embedding).__name__}: its last layer is unknown")
        if patches in chosen:
            dim = input_width(blocks(model)[0])
            graft(patches, SSFLast if isinstance(patches, nn.Linear) else SSFMap, **_pair(dim, overwritten=True))
            if isinstance(family.patch_norm(model), nn.LayerNorm):
                _scale_and_shift(family.patch_norm(model))
        for merging in family.token_mergings(model):
            if merging in chosen:
                _scale_and_shift(merging.norm)
        if last in chosen:
            _scale_and_shift(last, model.num_features)


def _attach_everywhere(model: nn.Module, chosen: set[nn.Module]) -> None:
    """Give a pair to every chosen norm, and to every chosen layer whose bias can take its shift."""
    norms: list[Any] = [norm for norm in norm_layers(model) if norm in chosen]
    for norm in norms:
        if isinstance(getattr(norm, "act", None), nn.Module):  # timm's norms with an activation in them
            graft(norm.drop, SSFNorm, ssf_norm=(norm,), **_pair(norm.weight.numel()))
        else:
            _scale_and_shift(norm)
    for layer in body_layers(model).values():
        if layer in chosen and layer.bias is not None:
            _scale_and_shift(layer, overwritten=True)


def _scale_and_shift(layer: Any, channels: int | None = None, overwritten: bool = False) -> None:
    kind = SSFMap if isinstance(layer, nn.Conv2d) or makes_maps(layer) else SSFLast
    graft(layer, kind, **_pair(len(layer.weight) if channels is None else channels, overwritten))


def _pair(channels: int, overwritten: bool = False) -> dict[str, Any]:
    scale, shift = 1 + 0.02 * torch.randn(channels), 0.02 * torch.randn(channels)
    return {"ssf_scale": nn.Parameter(scale), "ssf_shift": nn.Parameter(shift), "ssf_overwritten": overwritten}
