"""Yes or no for each of many items, as a text that JSON holds: base64 of bytes, the first bit is the highest."""

import base64
import binascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reading rows, which imports this, has no need of numpy
    import numpy as np


def pack_bits(bits: "np.ndarray") -> str:
    """Return the text of bits N (bool), which `unpack_bits` reads."""
    import numpy as np

    return base64.b64encode(np.packbits(bits.astype(bool)).tobytes()).decode()


def unpack_bits(text: str, number: int) -> "np.ndarray":
    """Return the `number` bits (bool) that `pack_bits` wrote.

    Raises:
        ValueError: the text holds another number of bits, or is not what `pack_bits` writes.
    """
    import numpy as np

    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("wanted base64") from None
    wanted = -(-number // 8)
    if len(data) != wanted:
        raise ValueError(f"wanted one bit for each of {number:,} items, {wanted:,} bytes; got {len(data):,}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(bool)
    if bits[number:].any():
        raise ValueError(f"holds ones behind the last of {number:,} items")
    return bits[:number]
