"""What hostile files are made with: pictures, encoded images and the parts of a PNG."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

COLOUR = (200, 100, 50)
SIZE = (64, 48)


class Picture(NamedTuple):
    """The file decodes to 8-bit RGB of this size (width, height) with this mean of each channel."""

    size: tuple[int, int] = SIZE
    mean: tuple[float, ...] = COLOUR
    within: float = 0.0


End = Picture | str
Maker = Callable[[Path], End]
NO_IMAGE = "not a known image format"


class Makers(dict[str, Maker]):
    """Makers by name."""

    def add(self, maker: Maker) -> Maker:
        """Adds a maker under the name of its function."""
        self[maker.__name__] = maker
        return maker


def plain(mode: str = "RGB", colour: tuple[int, ...] = COLOUR, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image of one colour."""
    return Image.new(mode, size, colour)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colour_type: int, pixels: bytes, interlaced: int = 0) -> bytes:
    """A PNG of 8 bits a channel; `pixels` are the compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def written(image: Image.Image, kind: str, end: End, **options: object) -> Maker:
    """A maker of this image in PIL's format `kind`."""

    def make(path: Path) -> End:
        path.write_bytes(encoded(image, kind, **options))
        return end

    return make


def written_with_another(kind: str, end: End, **options: object) -> Maker:
    """A maker of a plain image with a blue one behind it, as next page or frame, in PIL's format `kind`."""

    def make(path: Path) -> End:
        pages = [plain(colour=(0, 0, 255))]  # a new one each time: PIL leaves marks of a format on it
        path.write_bytes(encoded(plain(), kind, save_all=True, append_images=pages, **options))
        return end

    return make


def cut(kind: str, cause: str, **options: object) -> Maker:
    """A maker of the first half of a file of noise in PIL's format `kind`."""

    def make(path: Path) -> End:
        content = encoded(noise(), kind, **options)
        path.write_bytes(content[: len(content) // 2])
        return cause

    return make
