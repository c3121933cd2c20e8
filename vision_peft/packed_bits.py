"""Yes or no for each of many items, as a text that JSON holds: base64 of bytes, the first bit is the highest."""

import base64
import binascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def pack_bits(bits: "np.ndarray") -> str:
    """Return the text of bits N (bool), which `unpack_bits` reads."""
    import numpy as np

    return base64.b64encode(np.packbits(bits.astype(bool)).tobytes()).decode()


def check_bits(text: str, number: int) -> bytes:
    """Return the bytes behind a text of `number` bits; free of numpy, as rows are checked before a plot is drawn.

    Raises:
        ValueError: the text holds another number of bits, or is not what `pack_bits` writes.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("wanted base64") from None
    wanted = -(-number // 8)
    if len(data) != wanted:
        raise ValueError(f"wanted one bit for each of {number:,} items, {wanted:,} bytes; got {len(data):,}")
    if number % 8 and data[-1] & (0xFF >> number % 8):
        raise ValueError(f"holds ones behind the last of {number:,} items")
    return data


def unpack_bits(text: str, number: int) -> "np.ndarray":
    """Return the `number` bits (bool) that `pack_bits` wrote; ValueError as of `check_bits`."""
    import numpy as np

    return np.unpackbits(np.frombuffer(check_bits(text, number), np.uint8), count=number).astype(bool)
