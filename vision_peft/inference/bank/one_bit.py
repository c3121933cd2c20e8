"""One bit a number: a tensor as the two values that fit it best, and which of the two stands where.

The two values are the optimum of k-means with two means on the numbers of the tensor (Jie et al., ICCV 2023,
https://arxiv.org/abs/2307.16867, who train with it; here a trained adapter is coded as it is).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vision_peft.tuning.packed_codes import pack_codes, unpack_codes


@dataclass(frozen=True)
class OneBit:
    """A coded tensor: ``codes`` has a byte for eight numbers."""

    codes: Tensor
    low: float
    high: float
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the two values."""
        return self.codes.numel() + 8

    def decode(self) -> Tensor:
        """Return the tensor of the two values."""
        bits = unpack_codes(self.codes, 1, self.shape.numel())
        low, high = (torch.tensor(value, dtype=self.dtype, device=bits.device) for value in (self.low, self.high))
        return torch.where(bits.bool(), high, low).view(self.shape)


def encode(tensor: Tensor) -> OneBit:
    """Code a floating tensor by the two values with the least squared error, of all ways to cut its range in two."""
    values = tensor.detach().double().flatten()
    low, high, threshold = _two_means(values.sort().values)
    codes = pack_codes(values > threshold, 1)
    return OneBit(codes, low, high, tensor.shape, tensor.dtype)


def _two_means(ordered: Tensor) -> tuple[float, float, float]:
    """Return the means of the lower and of the upper part of sorted numbers, and the largest number of the lower."""
    n = len(ordered)
    if n == 0 or ordered[0] == ordered[-1]:
        value = float(ordered[0]) if n else 0.0
        return value, value, value
    below = ordered.cumsum(0)[:-1]
    count = torch.arange(1, n, dtype=torch.float64, device=ordered.device)
    above = ordered.sum() - below
    explained = below**2 / count + above**2 / (n - count)
    explained[ordered[1:] == ordered[:-1]] = -torch.inf  # equal numbers have one code
    cut = int(explained.argmax())
    return float(below[cut] / (cut + 1)), float(above[cut] / (n - cut - 1)), float(ordered[cut])
