"""A linear layer whose weight takes 2^bits values (Jie, Wang and Deng, ICCV 2023, https://arxiv.org/abs/2307.16867).

With μ and σ the mean and the (unbiased) standard deviation of all numbers of a latent weight w,

    ŵ = σ q(z) + μ,  z = (w - μ) / (σ + 1e-5),

q(z) being the nearest code of a fixed codebook, that of a standard normal distribution with the least mean distance.
q is the identity to the gradient, which also flows through μ and σ.

Two forms: latent, which trains, and packed, which files hold: the numbers of the codes side by side in bytes, and μ
and σ, which are then parameters of their own. The packed weight is what its file says; nothing is quantised again.

Source: JieShibo/PETL-ViT@026e4f1 binary_adapter/utils.py.
"""

import copy
import functools
import math

import torch
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import narrow_linear
from vision_peft.tuning.packed_codes import pack_codes, unpack_codes

BITS = (1, 2, 4)
STEPS = 500  # of the search for the codebook, as in the source; at 4 bits 1e-8 from its end


@functools.cache
def codebook(bits: int) -> tuple[float, ...]:
    """Return the 2^bits codes, rising: each is the median of what is nearest to it in a standard normal distribution.

    1 bit: ±0.674; 2 bits: ±0.378, ±1.266.
    """
    codes = torch.linspace(-1, 1, 2**bits, dtype=torch.float64, device="cpu")  # whatever device models are made on
    for _ in range(STEPS):
        below = torch.special.ndtr((codes[1:] + codes[:-1]) / 2)  # the share of numbers below each edge
        shares = torch.cat([below.new_zeros(1), below, below.new_ones(1)])
        codes = torch.special.ndtri((shares[1:] + shares[:-1]) / 2)
    return tuple(codes.tolist())


class FewBitLinear(nn.Module):
    """Linear layer without a bias, ``bits`` a weight; the latent weight starts as that of ``nn.Linear``."""

    book: Tensor
    codes: Tensor  # of the packed form, which also has ``mean`` and ``std``

    def __init__(self, in_features: int, out_features: int, bits: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        self.register_buffer("book", torch.tensor(codebook(bits), dtype=torch.get_default_dtype()), persistent=False)
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return narrow_linear(x, self.quantised())

    def quantised(self) -> Tensor:
        """ŵ (out, in), differentiable."""
        if self.weight is None:
            numbers = unpack_codes(self.codes, self.bits, self.out_features * self.in_features).int()
            return self.book[numbers].view(self.out_features, self.in_features) * self.std + self.mean
        z, mean, std = _standardise(self.weight)
        left, right = (self.book[torch.bucketize(z, self._edges(), right=side)] for side in (False, True))
        nearest = (left + right) / 2  # the two are one but for a z on an edge, which lies between its neighbours
        return (z + (nearest - z).detach()) * std + mean

    @torch.no_grad()
    def pack(self) -> "FewBitLinear":
        """Take the packed form in place, of which only μ and σ train."""
        if self.weight is not None:
            z, mean, std = _standardise(self.weight)
            self.register_buffer("codes", pack_codes(torch.bucketize(z, self._edges()), self.bits))
            self.mean, self.std = nn.Parameter(mean), nn.Parameter(std)
            self.weight = None
        return self

    def _edges(self) -> Tensor:
        return (self.book[1:] + self.book[:-1]) / 2


def few_bit_pair(
    in_features: int, hidden: int, out_features: int, bits: int, *, packed: bool
) -> tuple[FewBitLinear, FewBitLinear]:
    """Make a layer down to ``hidden`` channels and one up again, whose latent weight starts small as in the source."""
    down, up = FewBitLinear(in_features, hidden, bits), FewBitLinear(hidden, out_features, bits)
    assert up.weight is not None
    nn.init.trunc_normal_(up.weight, std=0.001, a=-0.002, b=0.002)
    return (down.pack(), up.pack()) if packed else (down, up)


def pack_all(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` whose quantised layers are packed."""
    packed = copy.deepcopy(module)
    for layer in packed.modules():
        if isinstance(layer, FewBitLinear):
            layer.pack()
    return packed


def _standardise(latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, std = latent.mean(), latent.std()
    return (latent - mean) / (std + 1e-5), mean, std
