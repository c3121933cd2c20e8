"""Images that take far more time or memory than their picture does, refused before they are decoded.

What is said in a header is compared with `max_pixels` elsewhere; these are files whose header is harmless.
"""

import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

MAX_SCANS = 100  # of a JPEG; cameras and programs write 1 to 20, and each takes a walk over the whole picture
MAX_RUN_LENGTH_WIDTH = 2**16  # of a BMP in runs, of which one may leave out 255 rows at a time
MAX_RUN_LENGTH_PIXELS = 2**24  # PIL decodes them in Python
MAX_TILE_PIXELS = 2**22  # of a TIFF, where that is more than twice its picture; programs write 2**8 to 2**20
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF's tags
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # behind the bytes of a scan; what is left out can be inside
_AT_ONCE = 2**20  # bytes


def check_cost(image: Image.Image, path: str | Path, content: bytes | None = None) -> None:
    """Raise ValueError where decoding an opened `image`, of a file or `content`, costs far more than its size says."""
    if image.format in ("JPEG", "MPO"):
        _check_scans(Path(path), content)
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    check_tile(image.size, (tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)))
    runs = any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ()))
    if runs and (image.width > MAX_RUN_LENGTH_WIDTH or image.width * image.height > MAX_RUN_LENGTH_PIXELS):
        raise ValueError(
            f"a BMP in runs of {image.width:,} x {image.height:,} pixels: wanted at most {MAX_RUN_LENGTH_WIDTH:,} a "
            f"row and {MAX_RUN_LENGTH_PIXELS:,} in all"
        )


def check_tile(size: tuple[int, int], tile: tuple[int, int]) -> None:
    """Raise ValueError where a tile of a TIFF, width x height, is unpacked to far more than the picture is."""
    if tile[0] * tile[1] > max(MAX_TILE_PIXELS, 2 * size[0] * size[1]):
        raise ValueError(
            f"a TIFF of {size[0]:,} x {size[1]:,} pixels in tiles of {tile[0]:,} x {tile[1]:,}: wanted tiles of "
            f"at most {MAX_TILE_PIXELS:,} pixels, or twice its own"
        )


def _check_scans(path: Path, content: bytes | None) -> None:
    count, last = 0, b""
    with path.open("rb", buffering=0) if content is None else io.BytesIO(content) as file:
        while part := file.read(_AT_ONCE):
            count += (last + part).count(_SCAN)
            last = part[-1:]
    # beside scans, what is counted are pictures in the metadata and chance
    if count > MAX_SCANS and _is_beyond(path.read_bytes() if content is None else content):
        raise ValueError(f"a JPEG of more than {MAX_SCANS} scans, each of which is a walk over the whole picture")


def _is_beyond(data: bytes) -> bool:
    """Whether the JPEG, read segment by segment, has more than MAX_SCANS."""
    scans, place = 0, 2
    while (marker := _MARKER.search(data, place)) is not None:
        kind, place = data[marker.start() + 1], marker.end()
        scans += kind == 0xDA
        if scans > MAX_SCANS:
            return True
        if kind not in (0x01, 0xD8, 0xD9):  # these have no content
            place += int.from_bytes(data[place : place + 2], "big")
    return False
