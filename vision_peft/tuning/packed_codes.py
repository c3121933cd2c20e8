"""Small whole numbers side by side in bytes, the first in the lowest bits: 8 of one bit, 4 of two, 2 of four."""

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_size(count: int, bits: int) -> int:
    """Count the bytes of ``count`` codes; the last byte is filled up with zeros."""
    return -(-count * bits // 8)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack whole numbers below 2^bits of any shape into bytes (n,), in order of the flattened tensor."""
    flat = codes.flatten().to(torch.uint8)
    per_byte = 8 // bits
    rows = F.pad(flat, (0, -len(flat) % per_byte)).view(-1, per_byte)
    return (rows << _places(bits, flat.device)).sum(1, dtype=torch.uint8)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first ``count`` codes in ``packed``, as bytes (count,); by division, as ONNX cannot shift these."""
    shifted = packed.int().unsqueeze(1) // 2 ** _places(bits, packed.device).int()
    return (shifted % 2**bits).flatten()[:count].to(torch.uint8)


def _places(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)
