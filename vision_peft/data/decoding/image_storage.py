"""How image files store their values, and how to get these back from what PIL makes of them.

PIL stretches values of few bits, and those of a PNM file of another maximum, over all of 0..255 or 0..65535. That is
right for photographs; for measurements and masks it is undone here, exactly, since no two values became one. Of more
bits than PIL has room for it keeps the upper ones, which cannot be undone.
"""

import re
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

_BITS = re.compile(r"(?:L|LA|RGB|RGBA);(\d+)")  # PIL's names of values that are not bytes
_FIVE_BITS = re.compile("BGRA?;1[56]")  # its names of colours of two bytes
_SIZES = b"\xff\x4f\xff\x51"  # JPEG 2000's markers with which a picture starts
_COMPONENTS = 40  # bytes from there to the number of its channels; three bytes describe each


class Storage(NamedTuple):
    """How a file stores a value: bits that it takes, and `scale` and `offset` from PIL's values to those stored."""

    bits: int
    scale: float = 1.0
    offset: int = 0


def read_storage(image: Image.Image) -> Storage:
    """Read how the values of an image that was opened, and not loaded yet, are stored; raises ValueError."""
    if image.format == "JPEG2000":
        return _read_components(image)
    room = 16 if image.mode[0] in "IF" else 8
    for decoder, *_, arguments in getattr(image, "tile", None) or []:
        first, *others = arguments if isinstance(arguments, tuple) else (arguments,)
        if image.format == "PPM" and decoder in ("ppm", "ppm_plain") and others:
            return Storage(max(8, others[0].bit_length()), others[0] / (2**room - 1))
        if _FIVE_BITS.match(str(first)):
            return Storage(5)
        if room == 8 and (found := _BITS.match(str(first))):
            bits = int(found[1])
            return Storage(bits, (2**bits - 1) / 255 if image.mode == "L" else 1.0)
    return Storage(room)


def load_stored(image: Image.Image) -> np.ndarray:
    """Decode an opened image to the values that its file stores, `H W` or `H W C`.

    Raises:
        ValueError: they have more bits than PIL keeps, or fewer of a kind that it rounds.
    """
    storage = check_storage(image)  # before it is loaded: after that PIL forgets
    values = np.array(image)
    if storage.scale != 1:
        values = np.rint(values * storage.scale).astype(values.dtype)
    return values.astype(np.int32) - storage.offset if storage.offset else values


def check_storage(image: Image.Image) -> Storage:
    """Return how the values of an opened image are stored; ValueError where they cannot be had from PIL."""
    storage = read_storage(image)
    if image.mode[0] in "IF":
        if storage.bits > 16 and image.format == "JPEG2000":
            raise ValueError(f"its values have {storage.bits} bits, of which PIL reads 16: save it as TIFF")
    elif storage.bits > 8:
        raise ValueError(
            f"its channels have {storage.bits} bits, of which PIL reads 8: save it as TIFF for data.channels, or as "
            "grey"
        )
    elif storage.bits < 8 and storage.scale == 1:
        raise ValueError(f"its channels have {storage.bits} bits, which PIL rounds to 8: save it with 8 bits each")
    return storage


def _read_components(image: Image.Image) -> Storage:
    """Read the bits of the channels of a JPEG 2000, which PIL moves up to 8 or 16."""
    assert isinstance(image, ImageFile.ImageFile)
    file = image.fp
    assert file is not None  # it was not loaded yet
    before = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(before)
    start = content.find(_SIZES) + _COMPONENTS
    (count,) = struct.unpack_from(">H", content, start)
    kinds = {content[start + 2 + 3 * number] for number in range(count)}
    if len(kinds) != 1:
        raise ValueError("its channels have different numbers of bits: save it as TIFF")
    kind = kinds.pop()
    bits, signed = (kind & 127) + 1, kind > 127
    room = 16 if image.mode.startswith("I") else 8
    return Storage(bits, 0.5 ** max(0, room - bits), 2 ** (bits - 1) if signed else 0)
