"""Values of image files are those stored, of any number of bits; where PIL cannot give them the file is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_peft.data.decoding.bands import BandForm, read_band_header, read_bands
from vision_peft.data.decoding.image_values import decode_numbers, decode_values
from vision_peft.data.decoding.images import ImageDecodeError, decode_image
from vision_peft.data.decoding.masks import ClassMasks, DepthMasks

GREY, COLOURS, GREY_WITH_ALPHA, COLOURS_WITH_ALPHA = 0, 2, 4, 6  # PNG's kinds


def png(bits: int, row: bytes, width: int, kind: int = GREY) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def tiff_of_4_bits() -> bytes:
    tags = [(256, 4), (257, 1), (258, 4), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 2)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags)
    return struct.pack("<2sHI2sH", b"II", 42, 10, bytes([0x01, 0x23]), len(tags)) + entries + bytes(4)


def jpeg2000(path: Path, values: np.ndarray, bits: int, signed: bool = False) -> Path:
    """Write one of `bits`: one of 16 whose header is changed, and whose values are as far from the middle."""
    Image.fromarray((values - 2 ** (bits - 1) + 2**15).astype(np.uint16)).save(path, irreversible=False, no_jp2=True)
    content = path.read_bytes()
    place = content.index(b"\xff\x4f\xff\x51") + 42
    assert content[place] == 15
    path.write_bytes(content[:place] + bytes([bits - 1 + 128 * signed]) + content[place + 1 :])
    return path


FEW = {  # files of 0, 1, 2 and 3, and what 3 is in a photograph
    "png of 4 bits": (png(4, bytes([0x01, 0x23]), 4), 51),
    "png of 2 bits": (png(2, bytes([0b00011011]), 4), 255),
    "tiff of 4 bits": (tiff_of_4_bits(), 51),
    "pgm": (b"P5\n4 1\n3\n\0\1\2\3", 255),
    "plain pgm": (b"P2\n4 1\n3\n0 1 2 3\n", 255),
}


@pytest.mark.parametrize("name", FEW)
def test_numbers_of_few_bits_are_those_stored(tmp_path: Path, name: str) -> None:
    path, (content, shown) = tmp_path / "mask", FEW[name]
    path.write_bytes(content)
    assert decode_numbers(path).tolist() == [[0, 1, 2, 3]]
    assert ClassMasks(["a", "b", "c", "d"]).read(path).tolist() == [[0, 1, 2, 3]]
    if name != "tiff of 4 bits":  # those of bands are another library's
        assert read_bands(path, BandForm(1)).tolist() == [[[0, 1, 2, 3]]]
    assert np.asarray(decode_image(path))[0, 3].tolist() == [shown] * 3


@pytest.mark.parametrize("maximum", [1, 2, 99, 254, 255, 256, 1000, 5000, 40_000, 65_534, 65_535])
def test_every_value_of_a_pgm_of_any_maximum_is_that_stored(tmp_path: Path, maximum: int) -> None:
    values = np.arange(maximum + 1)
    raster = values.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    (tmp_path / "1.pgm").write_bytes(b"P5\n%d 1\n%d\n" % (len(values), maximum) + raster)
    np.testing.assert_array_equal(decode_numbers(tmp_path / "1.pgm")[0], values)
    np.testing.assert_array_equal(read_bands(tmp_path / "1.pgm", BandForm(1))[0, 0], values)
    if maximum < 256:
        colours = np.stack([values, values[::-1], values], -1).astype(np.uint8)
        (tmp_path / "1.ppm").write_bytes(b"P6\n%d 1\n%d\n" % (len(values), maximum) + colours.tobytes())
        np.testing.assert_array_equal(decode_values(tmp_path / "1.ppm")[0], colours)


def test_depths_of_a_pgm_are_in_its_units(tmp_path: Path) -> None:
    (tmp_path / "1.pgm").write_bytes(b"P5\n4 1\n5000\n" + struct.pack(">4H", 0, 1000, 2500, 5000))
    assert DepthMasks().read(tmp_path / "1.pgm").tolist() == [[0, 1, 2.5, 5]]


@pytest.mark.parametrize("bits", [9, 10, 12, 15, 16])
def test_a_jpeg_2000_of_any_number_of_bits_gives_its_values(tmp_path: Path, bits: int) -> None:
    values = np.arange(0, 2**bits, 2 ** (bits - 8)).reshape(16, 16) + 1
    np.testing.assert_array_equal(decode_numbers(jpeg2000(tmp_path / "1.j2k", values, bits)), values)
    signed = decode_numbers(jpeg2000(tmp_path / "2.j2k", values, bits, signed=True))
    np.testing.assert_array_equal(signed, values - 2 ** (bits - 1))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(tmp_path / "3.jp2", irreversible=False)
    np.testing.assert_array_equal(decode_values(tmp_path / "3.jp2"), values.clip(0, 255))


DEEP = {
    "colours": png(16, struct.pack(">3H", 1000, 2000, 3000), 1, COLOURS),
    "colours with alpha": png(16, struct.pack(">4H", 1000, 2000, 3000, 65535), 1, COLOURS_WITH_ALPHA),
    "grey with alpha": png(16, struct.pack(">2H", 1000, 65535), 1, GREY_WITH_ALPHA),
    "ppm": b"P6\n1 1\n65535\n" + struct.pack(">3H", 1000, 2000, 60_000),
}


@pytest.mark.parametrize("name", DEEP)
def test_values_of_which_half_would_be_read_are_refused_by_their_header(tmp_path: Path, name: str) -> None:
    (tmp_path / "1").write_bytes(DEEP[name])
    said = "its channels have 16 bits, of which PIL reads 8: save it as TIFF for data.channels, or as grey"
    for read in (decode_numbers, decode_values):
        with pytest.raises(ImageDecodeError, match=said):
            read(tmp_path / "1")
    with pytest.raises(ImageDecodeError, match=said):
        read_band_header(tmp_path / "1", BandForm(4 if "alpha" in name else 3))
    assert decode_image(tmp_path / "1").mode == "RGB"  # as a photograph


def test_colours_of_five_bits_are_no_bands_and_may_be_those_of_a_mask(tmp_path: Path) -> None:
    row = struct.pack("<2H", 31 << 10, 31)  # red, blue
    info = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    (tmp_path / "1.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", 58, 0, 0, 54) + info + row)
    with pytest.raises(ImageDecodeError, match="have 5 bits, which PIL rounds to 8: save it with 8 bits each"):
        decode_values(tmp_path / "1.bmp")
    assert decode_numbers(tmp_path / "1.bmp").tolist() == [[2**24 + (255 << 16), 2**24 + 255]]
