"""Images that cost far more than their picture: refused, or decoded within three times the memory of the picture."""

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.hostile_kit import encoded, noise
from support.peak_memory import RESET, measure_memory

from vision_peft.data.decoding import image_costs
from vision_peft.data.decoding.bands import BandForm, read_band_header, read_bands
from vision_peft.data.decoding.image_costs import MAX_SCANS
from vision_peft.data.decoding.image_values import decode_numbers
from vision_peft.data.decoding.images import FORMATS, ImageDecodeError, decode_image


def with_scans(content: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is there `count` times more."""
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_thousands_of_scans_is_refused_unread(tmp_path: Path, progressive: bool) -> None:
    content = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=progressive)
    (tmp_path / "bomb.jpg").write_bytes(with_scans(content, 3000))
    started = time.process_time()
    with pytest.raises(ImageDecodeError, match=f"a JPEG of more than {MAX_SCANS} scans"):
        decode_image(tmp_path / "bomb.jpg")
    assert time.process_time() - started < 1


def test_a_jpeg_of_fewer_scans_is_its_picture(tmp_path: Path) -> None:
    content = encoded(noise(), "JPEG", progressive=True)
    (tmp_path / "plain.jpg").write_bytes(content)
    (tmp_path / "many.jpg").write_bytes(with_scans(content, MAX_SCANS - 15))
    (tmp_path / "more.jpg").write_bytes(with_scans(content, MAX_SCANS))
    with pytest.raises(ImageDecodeError, match="scans"):
        decode_image(tmp_path / "more.jpg")
    assert decode_image(tmp_path / "plain.jpg").size == decode_image(tmp_path / "many.jpg").size


def test_pictures_in_the_metadata_are_no_scans(tmp_path: Path) -> None:
    segment = b"\xff\xe1" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    content = encoded(noise(), "JPEG", progressive=True)
    (tmp_path / "photo.jpg").write_bytes(content[:2] + segment * 3 + content[2:])
    assert decode_image(tmp_path / "photo.jpg").size == noise().size


def test_scans_are_counted_over_the_parts_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_scans(encoded(noise(), "JPEG", progressive=True), MAX_SCANS)
    (tmp_path / "bomb.jpg").write_bytes(content)
    for size in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(image_costs, "_AT_ONCE", size)
        with pytest.raises(ImageDecodeError, match="scans"):
            decode_image(tmp_path / "bomb.jpg")


def run_length_bmp(width: int, height: int, pixels: bytes) -> bytes:
    palette = bytes(8)
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 2, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + info + palette + pixels


@pytest.mark.parametrize(("width", "height"), [(50_000_000, 2), (99_000_000, 1), (9_000, 9_000)])
def test_a_bmp_that_skips_hundreds_of_huge_rows_is_refused(tmp_path: Path, width: int, height: int) -> None:
    skip = b"\0\2\0\xff" * 50  # "go on 255 rows further": 12 GB of the first size
    (tmp_path / "bomb.bmp").write_bytes(run_length_bmp(width, height, skip))
    with pytest.raises(ImageDecodeError, match="a BMP in runs of"):
        decode_image(tmp_path / "bomb.bmp")


def tiff_of_one_tile(path: Path, size: int, tile: int) -> Path:
    """A TIFF of a square picture, cut from one packed tile of nothing but ones."""
    tifffile.imwrite(path, np.ones((tile, tile), np.uint8), tile=(tile, tile), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[name].overwrite(size)  # pyright: ignore[reportAttributeAccessIssue]
    return path


def test_a_small_tiff_of_a_huge_tile_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tiff_of_one_tile(tmp_path / "bomb.tif", 16, 4096)
    said = "a TIFF of 16 x 16 pixels in tiles of 4,096 x 4,096: wanted tiles of at most 4,194,304 pixels, or twice"
    for read in (decode_image, decode_numbers):
        with pytest.raises(ImageDecodeError, match=said):
            read(path)
    for read in (read_bands, read_band_header):
        with pytest.raises(ImageDecodeError, match=said):
            read(path, BandForm(1))


@pytest.mark.parametrize(("size", "tile"), [(16, 256), (300, 512), (16, 2048), (2100, 2944)])
def test_a_tiff_whose_tiles_are_larger_than_it_is_read(tmp_path: Path, size: int, tile: int) -> None:
    path = tiff_of_one_tile(tmp_path / "small.tif", size, tile)
    assert np.array_equal(decode_numbers(path), np.ones((size, size)))
    assert np.array_equal(read_bands(path, BandForm(1)), np.ones((1, size, size)))


WIDTH, HEIGHT = 3000, 2667
PICTURE_MB = 4 * WIDTH * HEIGHT / 2**20  # PIL keeps four bytes a pixel


def grey(dtype: type, top: float) -> Image.Image:
    ramp = np.linspace(0, top, HEIGHT).astype(dtype)
    return Image.fromarray(np.repeat(ramp[:, None], WIDTH, axis=1))


LARGE = {
    "png of 16 bits": ("PNG", lambda: grey(np.uint16, 65535), {}),
    "tiff of 16 bits": ("TIFF", lambda: grey(np.uint16, 65535), {}),
    "tiff of 32 bits": ("TIFF", lambda: grey(np.int32, 10**6), {}),
    "tiff of floats": ("TIFF", lambda: grey(np.float32, 300.0), {}),
    "png": ("PNG", lambda: Image.new("RGB", (WIDTH, HEIGHT)), {"compress_level": 1}),
    "png with alpha": ("PNG", lambda: Image.new("RGBA", (WIDTH, HEIGHT)), {"compress_level": 1}),
    "png of a palette": ("PNG", lambda: Image.new("P", (WIDTH, HEIGHT)), {"compress_level": 1}),
    "jpeg": ("JPEG", lambda: Image.new("RGB", (WIDTH, HEIGHT)), {}),
    "jpeg of four inks": ("JPEG", lambda: Image.new("CMYK", (WIDTH, HEIGHT)), {}),
    "progressive jpeg": ("JPEG", lambda: Image.new("RGB", (WIDTH, HEIGHT)), {"progressive": True}),
    "gif": ("GIF", lambda: Image.new("P", (WIDTH, HEIGHT)), {}),
    "bmp": ("BMP", lambda: Image.new("RGB", (WIDTH, HEIGHT)), {}),
    "webp": ("WEBP", lambda: Image.new("RGB", (WIDTH, HEIGHT)), {}),
    "webp with alpha": ("WEBP", lambda: Image.new("RGBA", (WIDTH, HEIGHT)), {}),
    "jpeg 2000": ("JPEG2000", lambda: Image.new("RGB", (WIDTH, HEIGHT)), {}),
}
TIMES = {"WEBP": 5, "JPEG2000": 6}  # their libraries hold several pictures, or four bytes a value


@pytest.mark.skipif(not RESET.exists(), reason="the high-water mark of memory is reset on Linux only")
@pytest.mark.parametrize("name", LARGE)
def test_decoding_takes_at_most_a_few_times_the_memory_of_the_picture(tmp_path: Path, name: str) -> None:
    kind, make, options = LARGE[name]
    file = io.BytesIO()
    make().save(file, kind, **options)
    (tmp_path / "large").write_bytes(file.getvalue())
    del file
    with measure_memory() as taken:
        assert decode_image(tmp_path / "large").mode == "RGB"
        assert taken() < TIMES.get(kind, 3) * PICTURE_MB


def test_greys_are_what_they_were_when_they_were_scaled_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    wide = generator.integers(0, 65536, (37, 53)).astype(np.uint16)
    for values, kind in (
        (wide, "PNG"),
        (wide, "TIFF"),
        (wide.astype(np.int32) * 9 - 1000, "TIFF"),
        (generator.normal(size=(37, 53)).astype(np.float32), "TIFF"),
        (generator.random((37, 53)).astype(np.float32), "TIFF"),
    ):
        Image.fromarray(values).save(tmp_path / "grey", kind)
        whole = np.asarray(decode_image(tmp_path / "grey"))
        monkeypatch.setattr("vision_peft.data.decoding.images._PIXELS_AT_ONCE", 100)
        np.testing.assert_array_equal(np.asarray(decode_image(tmp_path / "grey")), whole)
        monkeypatch.undo()
        top = 65535 if kind == "PNG" or values.dtype == np.uint16 else None
        if top:
            np.testing.assert_array_equal(whole[..., 0], np.rint(values.astype(np.float64) * (255 / top)))


def test_formats_are_a_positive_list() -> None:
    programs_and_containers = {"EPS", "WMF", "PDF", "PSD", "FITS", "HDF5", "GRIB", "BUFR", "MPEG", "ICNS", "ICO", "FLI"}
    assert not programs_and_containers & {*FORMATS}
