"""Makers of images that are cut, odd, huge or damaged; `IMAGES` names them."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin
from support.hostile_kit import (
    COLOUR,
    NO_IMAGE,
    SIZE,
    End,
    Makers,
    Picture,
    cut,
    encoded,
    noise,
    plain,
    png,
    written,
    written_with_another,
)

IMAGES = Makers()
IMAGES.update(
    jpeg_cut_in_its_pixels=cut("JPEG", "truncated"),
    progressive_jpeg_cut_in_its_pixels=cut("JPEG", "truncated", progressive=True),
    png_cut_in_its_pixels=cut("PNG", "truncated"),
    gif_cut_in_its_pixels=cut("GIF", "truncated"),
    webp_cut_in_its_pixels=cut("WEBP", ".", lossless=True),
    tiff_cut_in_its_pixels=cut("TIFF", "."),
    bmp_cut_in_its_pixels=cut("BMP", "truncated"),
)
IMAGES.update(
    two_photos_in_one_jpeg=written_with_another("MPO", Picture(within=2)),
    animated_png=written_with_another("PNG", Picture()),
    animated_gif=written_with_another("GIF", Picture()),
    animated_webp=written_with_another("WEBP", Picture(), lossless=True),
    tiff_of_several_pages=written_with_another("TIFF", Picture()),
)
IMAGES.update(
    png_called_jpg=written(plain(), "PNG", Picture()),
    grey_with_alpha=written(plain("LA", (90, 7)), "PNG", Picture(mean=(90, 90, 90))),
    colour_with_alpha=written(plain("RGBA", (*COLOUR, 0)), "PNG", Picture()),
    one_bit=written(plain("1", (1,)), "PNG", Picture(mean=(255, 255, 255))),
    a_single_pixel=written(plain(size=(1, 1)), "PNG", Picture(size=(1, 1))),
    a_strip_of_one_row=written(plain(size=(10_000, 1)), "PNG", Picture(size=(10_000, 1))),
    targa=written(plain(), "TGA", Picture()),
    jpeg_2000=written(plain(), "JPEG2000", Picture(within=1)),
    avif=written(plain(), "AVIF", Picture(within=4)),
    postscript=written(plain(), "EPS", NO_IMAGE),
    windows_icon=written(plain(size=(32, 32)), "ICO", NO_IMAGE),
)


@IMAGES.add
def jpeg_cut_in_its_header(path: Path) -> End:
    path.write_bytes(encoded(noise(), "JPEG")[:100])
    return "Truncated File"


@IMAGES.add
def jpeg_without_its_end(path: Path) -> End:
    path.write_bytes(encoded(noise(), "JPEG")[:-40])
    return "truncated"


@IMAGES.add
def jpeg_with_garbage_behind_it(path: Path) -> End:
    path.write_bytes(encoded(plain(), "JPEG") + bytes(range(256)) * 40)
    return Picture(within=2)


@IMAGES.add
def jpeg_with_a_huge_colour_profile(path: Path) -> End:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(3_000_000)
    path.write_bytes(encoded(plain(), "JPEG", icc_profile=profile))
    return Picture(within=2)


@IMAGES.add
def cmyk_jpeg(path: Path) -> End:
    path.write_bytes(encoded(plain("CMYK", (10, 110, 160, 45)), "JPEG", quality=100))
    mean = tuple((255 - ink) * (255 - 45) / 255 for ink in (10, 110, 160))
    return Picture(mean=mean, within=2)


@IMAGES.add
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


@IMAGES.add
def jpeg_turned_by_exif(path: Path) -> End:
    exif = Image.Exif()
    exif[0x0112] = 8
    path.write_bytes(encoded(plain(), "JPEG", exif=exif))
    return Picture(within=2)  # not turned: the published benchmarks ignore it


@IMAGES.add
def png_without_pixels(path: Path) -> End:
    path.write_bytes(png(64, 48, 2, zlib.compress(b"")))
    return "truncated"


@IMAGES.add
def png_with_a_wrong_checksum(path: Path) -> End:
    content = bytearray(encoded(noise(), "PNG"))
    content[content.index(b"IDAT") + 2000] ^= 0xFF
    path.write_bytes(content)
    return "broken"  # whichever is met first, the stream or its checksum


@IMAGES.add
def png_of_no_width(path: Path) -> End:
    path.write_bytes(png(0, 48, 2, zlib.compress(bytes(48))))
    return NO_IMAGE


@IMAGES.add
def png_that_promises_2500_megapixels(path: Path) -> End:
    path.write_bytes(png(50_000, 50_000, 2, zlib.compress(b"")))
    return "more than max_pixels=100,000,000"


@IMAGES.add
def png_of_200_megapixels_in_194_kilobytes(path: Path) -> End:
    packer = zlib.compressobj(1)
    rows = bytes(100 * 20_001)
    pixels = b"".join(packer.compress(rows) for _ in range(100)) + packer.flush()
    path.write_bytes(png(20_000, 10_000, 0, pixels))
    assert path.stat().st_size < 1_000_000
    return "more than max_pixels=100,000,000"


@IMAGES.add
def png_with_a_text_that_unpacks_to_100_megabytes(path: Path) -> End:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    path.write_bytes(encoded(plain(), "PNG", pnginfo=info))
    return "too large"


@IMAGES.add
def interlaced_png(path: Path) -> End:
    """8 x 8 in the seven passes of Adam7, each row behind a filter byte."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    pixels = b"".join((b"\0" + bytes(COLOUR) * width) * height for width, height in passes)
    path.write_bytes(png(8, 8, 2, zlib.compress(pixels), interlaced=1))
    return Picture(size=(8, 8))


@IMAGES.add
def grey_of_16_bit(path: Path) -> End:
    Image.fromarray(np.full((48, 64), 51_400, np.uint16)).save(path, "PNG")
    return Picture(mean=(200, 200, 200))


@IMAGES.add
def palette_with_transparency(path: Path) -> End:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *COLOUR])
    path.write_bytes(encoded(image, "PNG", transparency=b"\x80\x00"))
    return Picture()


@IMAGES.add
def gif_whose_frame_is_larger_than_the_gif(path: Path) -> End:
    content = bytearray(encoded(plain(), "GIF"))
    place = content.rindex(b",\0\0\0\0" + struct.pack("<HH", *SIZE))
    content[place + 5 : place + 9] = struct.pack("<HH", 65_535, 65_535)
    path.write_bytes(content)
    return "more than max_pixels=100,000,000"


@IMAGES.add
def tiff_of_big_endian_16_bit(path: Path) -> End:
    """Uncompressed, one strip: an image file directory written out."""
    width, height = SIZE
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, height)]
    entries.append((279, 2 * width * height))
    directory = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(entries)) + directory + struct.pack(">I", 0)
    path.write_bytes(head.ljust(122, b"\0") + np.full(width * height, 25_700, ">u2").tobytes())
    return Picture(mean=(100, 100, 100))


@IMAGES.add
def tiff_of_floats(path: Path) -> End:
    Image.fromarray(np.full((48, 64), 0.2, np.float32)).save(path, "TIFF")
    return Picture(mean=(51, 51, 51))


@IMAGES.add
def bmp_with_run_lengths(path: Path) -> End:
    """8 x 4 pixels of the palette's colour 1: a row is 'eight times 1', 'end of line'."""
    pixels = b"\x08\x01\0\0" * 4 + b"\0\1"
    palette = bytes(4) + bytes(reversed(COLOUR)) + b"\0"
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(pixels), 0, 0, 2, 0)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + info + palette + pixels)
    return Picture(size=(8, 4))


@IMAGES.add
def ppm_that_promises_more_than_it_holds(path: Path) -> End:
    path.write_bytes(b"P6 300 300 255\n" + bytes(64))
    return "truncated"
