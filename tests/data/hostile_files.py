"""Makers of files that a data folder may hold where images are expected; `MAKERS` names them.

A maker writes to the path it is given and returns how that must end: `Picture` or a pattern of the error's cause.
"""

import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

COLOUR = (200, 100, 50)
SIZE = (64, 48)


class Picture(NamedTuple):
    """The file decodes to 8-bit RGB of this size (width, height) with this mean of each channel."""

    size: tuple[int, int] = SIZE
    mean: tuple[float, ...] = COLOUR
    within: float = 0.0


End = Picture | str
Maker = Callable[[Path], End]
MAKERS: dict[str, Maker] = {}
NO_IMAGE = "not a known image format"


def hostile(maker: Maker) -> Maker:
    MAKERS[maker.__name__] = maker
    return maker


def plain(mode: str = "RGB", colour: tuple[int, ...] = COLOUR, size: tuple[int, int] = SIZE) -> Image.Image:
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
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@hostile
def zero_bytes(path: Path) -> End:
    path.touch()
    return "the file is empty"


@hostile
def html_page(path: Path) -> End:
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    return NO_IMAGE


@hostile
def plain_text(path: Path) -> End:
    path.write_text("cat photo, to be uploaded\n" * 50)
    return NO_IMAGE


@hostile
def vector_graphics(path: Path) -> End:
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect width="9" height="9"/></svg>')
    return NO_IMAGE


class _Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("this-must-never-be-made",)


@hostile
def pickled_object(path: Path) -> End:
    path.write_bytes(pickle.dumps(_Malicious()))
    return NO_IMAGE


@hostile
def postscript(path: Path) -> End:
    path.write_bytes(encoded(plain(), "EPS"))
    return NO_IMAGE


@hostile
def photoshop(path: Path) -> End:
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 48, 64, 8, 3)
    path.write_bytes(header + struct.pack(">IIIH", 0, 0, 0, 0) + bytes(3 * 48 * 64))
    return NO_IMAGE


@hostile
def windows_icon(path: Path) -> End:
    path.write_bytes(encoded(plain(size=(32, 32)), "ICO"))
    return NO_IMAGE


@hostile
def jpeg_cut_in_its_header(path: Path) -> End:
    path.write_bytes(encoded(noise(), "JPEG")[:100])
    return "Truncated File"


@hostile
def jpeg_cut_in_its_pixels(path: Path) -> End:
    content = encoded(noise(), "JPEG")
    path.write_bytes(content[: len(content) // 2])
    return "truncated"


@hostile
def jpeg_without_its_end(path: Path) -> End:
    path.write_bytes(encoded(noise(), "JPEG")[:-40])
    return "truncated"


@hostile
def progressive_jpeg_cut_in_its_pixels(path: Path) -> End:
    content = encoded(noise(), "JPEG", progressive=True)
    path.write_bytes(content[: len(content) // 2])
    return "truncated"


@hostile
def jpeg_with_garbage_behind_it(path: Path) -> End:
    path.write_bytes(encoded(plain(), "JPEG") + bytes(range(256)) * 40)
    return Picture(within=2)


@hostile
def jpeg_with_a_huge_colour_profile(path: Path) -> End:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(3_000_000)
    path.write_bytes(encoded(plain(), "JPEG", icc_profile=profile))
    return Picture(within=2)


@hostile
def cmyk_jpeg(path: Path) -> End:
    path.write_bytes(encoded(plain("CMYK", (10, 110, 160, 45)), "JPEG", quality=100))
    mean = tuple((255 - ink) * (255 - 45) / 255 for ink in (10, 110, 160))
    return Picture(mean=mean, within=2)


@hostile
def ycck_jpeg(path: Path) -> End:
    """The stored (inverted) channels are said to be Y, Cb, Cr and K: libjpeg turns them into 255 - R, G, B."""
    luma, blue, red, black = 150, 120, 140, 45
    content = encoded(plain("CMYK", (255 - luma, 255 - blue, 255 - red, black)), "JPEG", quality=100)
    place = content.index(b"Adobe") + 11
    assert content[place] == 0
    path.write_bytes(content[:place] + b"\x02" + content[place + 1 :])
    colours = (
        luma + 1.402 * (red - 128),
        luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        luma + 1.772 * (blue - 128),
    )
    # stored inverted, so that what libjpeg calls 255 - R is again the inverse of the ink
    mean = tuple(round(255 - colour) * (255 - black) / 255 for colour in colours)
    return Picture(mean=mean, within=2)


@hostile
def jpeg_turned_by_exif(path: Path) -> End:
    exif = Image.Exif()
    exif[0x0112] = 8
    path.write_bytes(encoded(plain(), "JPEG", exif=exif))
    return Picture(within=2)  # not turned: the published benchmarks ignore it


@hostile
def two_photos_in_one_jpeg(path: Path) -> End:
    path.write_bytes(encoded(plain(), "MPO", save_all=True, append_images=[plain(colour=(0, 0, 255))]))
    return Picture(within=2)


@hostile
def png_called_jpg(path: Path) -> End:
    path.write_bytes(encoded(plain(), "PNG"))
    return Picture()


@hostile
def png_cut_in_its_pixels(path: Path) -> End:
    content = encoded(noise(), "PNG")
    path.write_bytes(content[: len(content) // 2])
    return "truncated"


@hostile
def png_without_pixels(path: Path) -> End:
    path.write_bytes(png(64, 48, 2, zlib.compress(b"")))
    return "truncated"


@hostile
def png_with_a_wrong_checksum(path: Path) -> End:
    content = bytearray(encoded(noise(), "PNG"))
    content[content.index(b"IDAT") + 2000] ^= 0xFF
    path.write_bytes(content)
    return "broken"  # whichever is met first, the stream or its checksum


@hostile
def png_of_no_width(path: Path) -> End:
    path.write_bytes(png(0, 48, 2, zlib.compress(bytes(48))))
    return NO_IMAGE


@hostile
def png_that_promises_2500_megapixels(path: Path) -> End:
    path.write_bytes(png(50_000, 50_000, 2, zlib.compress(b"")))
    return "more than max_pixels=100,000,000"


@hostile
def png_of_200_megapixels_in_194_kilobytes(path: Path) -> End:
    packer = zlib.compressobj(1)
    rows = bytes(100 * 20_001)
    pixels = b"".join(packer.compress(rows) for _ in range(100)) + packer.flush()
    path.write_bytes(png(20_000, 10_000, 0, pixels))
    assert path.stat().st_size < 1_000_000
    return "more than max_pixels=100,000,000"


@hostile
def png_with_a_text_that_unpacks_to_100_megabytes(path: Path) -> End:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    path.write_bytes(encoded(plain(), "PNG", pnginfo=info))
    return "too large"


@hostile
def interlaced_png(path: Path) -> End:
    """8 x 8 in the seven passes of Adam7, each row behind a filter byte."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    pixels = b"".join((b"\0" + bytes(COLOUR) * width) * height for width, height in passes)
    path.write_bytes(png(8, 8, 2, zlib.compress(pixels), interlaced=1))
    return Picture(size=(8, 8))


@hostile
def grey_of_16_bit(path: Path) -> End:
    Image.fromarray(np.full((48, 64), 51_400, np.uint16)).save(path, "PNG")
    return Picture(mean=(200, 200, 200))


@hostile
def grey_with_alpha(path: Path) -> End:
    path.write_bytes(encoded(plain("LA", (90, 7)), "PNG"))
    return Picture(mean=(90, 90, 90))


@hostile
def colour_with_alpha(path: Path) -> End:
    path.write_bytes(encoded(plain("RGBA", (*COLOUR, 0)), "PNG"))
    return Picture()


@hostile
def one_bit(path: Path) -> End:
    path.write_bytes(encoded(plain("1", (1,)), "PNG"))
    return Picture(mean=(255, 255, 255))


@hostile
def palette_with_transparency(path: Path) -> End:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *COLOUR])
    path.write_bytes(encoded(image, "PNG", transparency=b"\x80\x00"))
    return Picture()


@hostile
def animated_png(path: Path) -> End:
    path.write_bytes(encoded(plain(), "PNG", save_all=True, append_images=[plain(colour=(0, 0, 255))]))
    return Picture()


@hostile
def animated_gif(path: Path) -> End:
    path.write_bytes(encoded(plain(), "GIF", save_all=True, append_images=[plain(colour=(0, 0, 255))]))
    return Picture()


@hostile
def gif_cut_in_its_pixels(path: Path) -> End:
    content = encoded(noise(), "GIF")
    path.write_bytes(content[: len(content) // 2])
    return "truncated"


@hostile
def gif_whose_frame_is_larger_than_the_gif(path: Path) -> End:
    content = bytearray(encoded(plain(), "GIF"))
    place = content.rindex(b",\0\0\0\0" + struct.pack("<HH", *SIZE))
    content[place + 5 : place + 9] = struct.pack("<HH", 65_535, 65_535)
    path.write_bytes(content)
    return "more than max_pixels=100,000,000"


@hostile
def animated_webp(path: Path) -> End:
    path.write_bytes(encoded(plain(), "WEBP", save_all=True, append_images=[plain(colour=(0, 0, 255))], lossless=True))
    return Picture()


@hostile
def webp_cut_in_its_pixels(path: Path) -> End:
    content = encoded(noise(), "WEBP", lossless=True)
    path.write_bytes(content[: len(content) // 2])
    return "."


@hostile
def tiff_of_several_pages(path: Path) -> End:
    path.write_bytes(encoded(plain(), "TIFF", save_all=True, append_images=[plain(colour=(0, 0, 255))]))
    return Picture()


@hostile
def tiff_cut_in_its_pixels(path: Path) -> End:
    content = encoded(noise(), "TIFF")
    path.write_bytes(content[: len(content) // 2])
    return "."


@hostile
def tiff_of_big_endian_16_bit(path: Path) -> End:
    """Uncompressed, one strip: an image file directory written out."""
    width, height = SIZE
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, height)]
    entries.append((279, 2 * width * height))
    directory = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(entries)) + directory + struct.pack(">I", 0)
    path.write_bytes(head.ljust(122, b"\0") + np.full(width * height, 25_700, ">u2").tobytes())
    return Picture(mean=(100, 100, 100))


@hostile
def tiff_of_floats(path: Path) -> End:
    Image.fromarray(np.full((48, 64), 0.2, np.float32)).save(path, "TIFF")
    return Picture(mean=(51, 51, 51))


@hostile
def bmp_with_run_lengths(path: Path) -> End:
    """8 x 4 pixels of the palette's colour 1: a row is 'eight times 1', 'end of line'."""
    pixels = b"\x08\x01\0\0" * 4 + b"\0\1"
    palette = bytes(4) + bytes(reversed(COLOUR)) + b"\0"
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(pixels), 0, 0, 2, 0)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + info + palette + pixels)
    return Picture(size=(8, 4))


@hostile
def bmp_cut_in_its_pixels(path: Path) -> End:
    content = encoded(noise(), "BMP")
    path.write_bytes(content[: len(content) // 2])
    return "truncated"


@hostile
def targa(path: Path) -> End:
    path.write_bytes(encoded(plain(), "TGA"))
    return Picture()


@hostile
def ppm_that_promises_more_than_it_holds(path: Path) -> End:
    path.write_bytes(b"P6 300 300 255\n" + bytes(64))
    return "truncated"


@hostile
def jpeg_2000(path: Path) -> End:
    path.write_bytes(encoded(plain(), "JPEG2000"))
    return Picture(within=1)


@hostile
def avif(path: Path) -> End:
    path.write_bytes(encoded(plain(), "AVIF"))
    return Picture(within=4)


@hostile
def a_single_pixel(path: Path) -> End:
    path.write_bytes(encoded(plain(size=(1, 1)), "PNG"))
    return Picture(size=(1, 1))


@hostile
def a_strip_of_one_row(path: Path) -> End:
    path.write_bytes(encoded(plain(size=(10_000, 1)), "PNG"))
    return Picture(size=(10_000, 1))


@hostile
def a_folder(path: Path) -> End:
    path.mkdir()
    return "no plain file"


@hostile
def a_pipe(path: Path) -> End:
    os.mkfifo(path)
    return "no plain file"


@hostile
def a_link_to_an_endless_device(path: Path) -> End:
    path.symlink_to("/dev/zero")
    return "no plain file"


@hostile
def a_broken_link(path: Path) -> End:
    path.symlink_to(path.with_name("nothing.jpg"))
    return "FileNotFoundError"


@hostile
def a_link_to_itself(path: Path) -> End:
    path.symlink_to(path)
    return "OSError"


@hostile
def a_file_without_permission_to_read(path: Path) -> End:
    path.write_bytes(encoded(plain(), "PNG"))
    path.chmod(0)
    return Picture() if os.access(path, os.R_OK) else "PermissionError"  # root may read everything
