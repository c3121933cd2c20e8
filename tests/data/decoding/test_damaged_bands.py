"""Files of bands that are damaged or made to harm: one error with the file, little memory, little time."""

import io
import pickle
import random
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from vision_peft.data.decoding.bands import BandForm, read_band_header, read_bands
from vision_peft.data.decoding.images import ImageDecodeError

VALUES = np.arange(4 * 24 * 24, dtype=np.int16).reshape(24, 24, 4)
TIFFS = {
    "strips": {"compression": "zlib", "rowsperstrip": 5},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
    "plain": {"rowsperstrip": 24},
}
FORM = BandForm(4)


def save(path: Path, name: str) -> bytes:
    tifffile.imwrite(path, VALUES, photometric="minisblack", planarconfig="contig", **TIFFS[name])
    return path.read_bytes()


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_that_was_cut_off_or_overwritten_gives_one_error_or_an_image(tmp_path: Path, name: str) -> None:
    path, draw = tmp_path / "1.tif", random.Random(0)
    whole, refused = save(path, name), 0
    for number in range(30):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.choice([1, 3, 20])):
                content[draw.randrange(len(content) if number % 3 == 1 else 300)] = draw.randrange(256)
        path.write_bytes(content)
        try:
            assert read_bands(path, FORM).shape[0] == 4
        except ImageDecodeError as error:
            refused += 1
            assert error.path == str(path)  # noqa: PT017  what is no such error fails the test
    assert refused >= 10  # those that were cut off


@pytest.mark.parametrize(("length", "words"), [(2 * 10**7, "unpacks to more"), (100, "unpacks to 100 bytes")])
def test_a_part_of_another_length_is_refused_before_it_is_unpacked(tmp_path: Path, length: int, words: str) -> None:
    path, packed = tmp_path / "1.tif", zlib.compress(bytes(length), 9)
    save(path, "strips")
    with tifffile.TiffFile(path) as tiff:
        count, offset = (tiff.pages.first.tags[name] for name in ("StripByteCounts", "StripOffsets"))
        assert (int(count.dtype), int(offset.dtype)) == (3, 4)  # of 2 and 4 bytes
    content = bytearray(path.read_bytes())
    content[count.valueoffset : count.valueoffset + 2] = len(packed).to_bytes(2, "little")
    content[offset.valueoffset : offset.valueoffset + 4] = len(content).to_bytes(4, "little")
    path.write_bytes(content + packed)
    tracemalloc.start()
    with pytest.raises(ImageDecodeError, match=f"part 0 of a page {words}, its pixels have 960 bytes"):
        read_bands(path, FORM)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def header(shape: tuple[int, ...], dtype: str = "<i2") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header((60_000, 60_000, 4)), "3,600,000,000 pixels, more than max_pixels"),
        (header((9000, 9000, 4000)), "9,000 x 9,000 pixels of 4,000 bands: wanted at most 4,096 bands and 4 GiB"),
        (header((24, 24, 4)) + bytes(100), "it ends after 100 of 4,608 bytes"),
        (header((24, 24, 4), "|O") + pickle.dumps([1]), "it holds Python objects, which are not loaded"),
        (header((0, 24, 4)), "and not nothing"),
        (b"\x93NUMPY\x09\x00" + bytes(60), "an array of format 9.0"),
        (b"\x93NUMPY", "EOF"),
    ],
)
def test_an_array_is_refused_by_its_header(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "1.npy"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ImageDecodeError, match=words):
        read_bands(path, BandForm(4000 if b"4000" in content else 4))
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_an_archive_of_an_endless_array_is_refused_by_the_header_inside(tmp_path: Path) -> None:
    path = tmp_path / "1.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("image.npy", "w") as file:
        file.write(header((60_000, 60_000, 4)))
        for _ in range(20):
            file.write(bytes(10**6))
    with pytest.raises(ImageDecodeError, match="pixels, more than max_pixels"):
        read_band_header(path, FORM)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageDecodeError, match="not a zip file"):
        read_band_header(path, FORM)


def test_pages_that_differ_or_never_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(VALUES[..., 0], photometric="minisblack")
        file.write(VALUES[:10, :, 1], photometric="minisblack")
    with pytest.raises(ImageDecodeError, match="page 1 is 24 x 10 of int16, page 0 24 x 24 of int16"):
        read_band_header(path, BandForm(2))
    tifffile.imwrite(path, np.zeros((600, 4, 4), np.uint8), photometric="minisblack")
    with pytest.raises(ImageDecodeError, match="a TIFF of more than 512 pages"):
        read_band_header(path, BandForm(600))


def test_overviews_and_masks_are_not_bands(tmp_path: Path) -> None:
    path = tmp_path / "1.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(VALUES, photometric="minisblack", planarconfig="contig")
        file.write(VALUES[::2, ::2].copy(), photometric="minisblack", planarconfig="contig", subfiletype=1)
    assert np.array_equal(read_bands(path, FORM), np.moveaxis(VALUES, -1, 0))
