"""Linear layers that keep a frozen weight in 8 or 4 bits and unpack it where they compute.

``int8`` has one scale a row (out channel); ``nf4`` is QLoRA's 4-bit code (Dettmers et al., NeurIPS 2023,
https://arxiv.org/abs/2305.14314) with a scale for every 64 weights, which are themselves kept in 8 bits. torchao packs
them (extra ``quant``); the unpacking is a few operations of torch, so that grafts, ``deepcopy``, DDP and
``torch.compile`` meet plain tensors. Weights are unpacked again for the backward pass, which keeps none of them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.needs import Need

BLOCK = 64  # weights that share a scale in nf4


class QuantizedLinear(nn.Linear):
    """A linear layer whose packed weight (out, in) is frozen; ``weight`` unpacks it, for whoever reads it."""

    packed_dtype: str
    packed: Tensor  # int8: (out, in); nf4: two codes a byte
    scale: Tensor  # int8: (out, 1); nf4: int8 (weights / 64)
    scale_factor: Tensor  # nf4: of the scales of a block
    scale_mean: Tensor  # nf4: of all scales
    code: Tensor  # nf4: the 16 values

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return unpack(self.packed_dtype, (self.out_features, self.in_features), *self.packed_tensors())

    def packed_tensors(self) -> tuple[Tensor, ...]:
        """Return what ``unpack`` takes."""
        return (self.packed, self.scale, *self._of_nf4()) if self.packed_dtype == "nf4" else (self.packed, self.scale)

    def _of_nf4(self) -> tuple[Tensor, ...]:
        return self.scale_factor, self.scale_mean, self.code

    def forward(self, x: Tensor) -> Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return super().forward(x)
        shape = (self.out_features, self.in_features)
        y = _FrozenLinear.apply(x, self.packed_dtype, shape, *self.packed_tensors())
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _FrozenLinear(torch.autograd.Function):
    """x Wᵀ of a packed W, of which only the gradient of x is asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: str, shape: tuple[int, int], *packed: Tensor) -> Tensor:
        ctx.save_for_backward(*packed)
        ctx.packed_as = dtype, shape
        ctx.input_dtype = x.dtype
        return F.linear(x, unpack(dtype, shape, *packed).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight = unpack(*ctx.packed_as, *ctx.saved_tensors)
        gradient = gradients[0] @ weight.to(gradients[0].dtype)
        return gradient.to(ctx.input_dtype), None, None, *(None for _ in ctx.saved_tensors)


def unpack(dtype: str, shape: tuple[int, int], packed: Tensor, scale: Tensor, *nf4: Tensor) -> Tensor:
    """Return the fp32 weight (out, in) of packed tensors."""
    if dtype == "int8":
        return packed.float() * scale
    factor, mean, code = nf4
    scales = (scale.view(len(factor), -1) / factor.unsqueeze(1)).view(-1, 1) + mean
    codes = torch.stack([packed // 16, packed % 16], dim=-1).flatten()  # ONNX cannot shift bytes
    return (code.index_select(0, codes.int()).view(-1, BLOCK) * scales).view(shape)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the layers with packed weights by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


def quantized_as(model: nn.Module) -> str | None:
    """Return how the weights of ``model`` are packed, None where they are not."""
    return next((layer.packed_dtype for layer in model.modules() if isinstance(layer, QuantizedLinear)), None)


def check_unpacked(model: nn.Module) -> None:
    """Raise ValueError where the weights of ``model`` are packed, so that nothing can train or change them."""
    if (dtype := quantized_as(model)) is not None:
        raise ValueError(
            f"the weights of this backbone are kept in {dtype} and cannot be trained or changed: take a backbone in "
            "fp32 (backbone_dtype=fp32), or a method that adds its own"
        )


UNPACKED = Need("weights in floating point", check_unpacked)
