"""Decoding: what every kind of image becomes, and what every kind of broken file says."""

import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile, ImageOps

from vision_peft.data.decoding.images import (
    EXTENSIONS,
    ImageDecodeError,
    check_start,
    convert_image,
    decode_image,
    read_header,
)

RAMP = np.linspace(0, 65535, 64 * 48).reshape(48, 64)


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises `width` x `height` pixels; its data would be refused after that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_16_bit_image_keeps_its_mean_instead_of_saturating(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / "ramp.png")
    assert Image.open(tmp_path / "ramp.png").mode == "I;16"
    pixels = np.asarray(decode_image(tmp_path / "ramp.png"))
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[..., 0], np.rint(RAMP.astype(np.uint16) / 257))
    assert pixels.mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (RAMP.astype(np.int32), 0, 65535),
        ((RAMP / 1000).astype(np.int32), 0, 65535),
        (RAMP.astype(np.int32) - 1000, -1000, 64535),
        (RAMP.astype(np.int32) * 3, 0, 196605),
        ((RAMP / 65535 * 0.5).astype(np.float32), 0, 1),
        ((RAMP / 65535 * 200).astype(np.float32), 0, 255),
        ((RAMP / 65535 * 300).astype(np.float32), 0, 300),
        ((RAMP / 65535 - 0.5).astype(np.float32), -0.5, 0.5),
    ],
)
def test_integer_and_float_images_are_scaled_by_their_range(
    tmp_path: Path, values: np.ndarray, low: float, high: float
) -> None:
    Image.fromarray(values).save(tmp_path / "image.tiff")
    assert Image.open(tmp_path / "image.tiff").mode in ("I", "F")
    wanted = (values.astype(np.float64) - low) / (high - low) * 255
    np.testing.assert_allclose(np.asarray(decode_image(tmp_path / "image.tiff"))[..., 1], wanted, atol=0.51)


def test_a_float_image_with_nan_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, np.nan]], np.float32)).save(tmp_path / "nan.tiff")
    with pytest.raises(ImageDecodeError, match="NaN"):
        decode_image(tmp_path / "nan.tiff")


@pytest.mark.parametrize(
    ("mode", "extension"), [("CMYK", "jpg"), ("P", "png"), ("L", "png"), ("LA", "png"), ("RGBA", "png"), ("1", "png")]
)
def test_every_other_mode_becomes_what_pil_makes_of_it(tmp_path: Path, mode: str, extension: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(colours).convert(mode).save(tmp_path / f"image.{extension}")
    stored = Image.open(tmp_path / f"image.{extension}")
    assert stored.mode == mode
    decoded = decode_image(tmp_path / f"image.{extension}")
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(stored.convert("RGB")))


def test_alpha_is_dropped_not_composited(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    assert decode_image(tmp_path / "clear.png").getpixel((0, 0)) == (200, 100, 50)


def test_a_transparent_palette_image_decodes_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(tmp_path / "palette.png").getpixel((0, 0)) == (10, 20, 30)


def test_exif_rotation_is_off_unless_asked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "turned.jpg", exif=exif)
    assert decode_image(tmp_path / "turned.jpg").size == (64, 48)
    assert decode_image(tmp_path / "turned.jpg", exif_rotation=True).size == (48, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_whatever_else_its_exif_data_hold(tmp_path: Path, orientation: int) -> None:
    entries = [(0x112, 3, 1, struct.pack("<HH", orientation, 0)), (0x11A, 2, 4, b"abc\0")]  # a resolution of letters
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    block += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    exif, plain = Image.Exif(), np.arange(64 * 48, dtype=np.uint8).reshape(48, 64)
    exif[0x112] = orientation
    for name, data in (("odd.png", b"Exif\0\0" + block), ("plain.png", exif.tobytes())):
        Image.fromarray(plain).save(tmp_path / name, exif=data)
    turned = decode_image(tmp_path / "odd.png", exif_rotation=True)
    wanted = ImageOps.exif_transpose(Image.open(tmp_path / "plain.png")).convert("RGB")
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(wanted))
    assert read_header(tmp_path / "odd.png").orientation == orientation
    for image in (turned, convert_image(Image.open(tmp_path / "odd.png"), exif_rotation=True)):
        np.testing.assert_array_equal(np.asarray(convert_image(image, exif_rotation=True)), np.asarray(wanted))


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert decode_image(tmp_path / "moving.gif").getpixel((3, 3)) == (255, 0, 0)


def test_the_content_counts_not_the_extension(tmp_path: Path) -> None:
    Image.new("RGB", (6, 6), (1, 2, 3)).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "called.jpg")
    assert decode_image(tmp_path / "called.jpg").getpixel((0, 0)) == (1, 2, 3)


def test_a_huge_image_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(20_000, 10_000))
    with pytest.raises(ImageDecodeError, match=r"bomb\.png: more than max_pixels=100,000,000 pixels.*data\.max_pixels"):
        decode_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(("max_pixels", "fits"), [(3071, False), (1500, False), (3072, True)])
def test_max_pixels_is_the_largest_number_of_pixels_that_decodes(tmp_path: Path, max_pixels: int, fits: bool) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    before = Image.MAX_IMAGE_PIXELS
    if fits:
        assert decode_image(tmp_path / "image.png", max_pixels=max_pixels).size == (64, 48)
    else:
        with pytest.raises(ImageDecodeError, match="max_pixels"):
            decode_image(tmp_path / "image.png", max_pixels=max_pixels)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_limit_above_pils_own_is_honoured(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_header(20_000, 10_000))
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(tmp_path / "large.png", max_pixels=200_000_000)
    assert "max_pixels" not in str(caught.value)  # past the header; the missing pixels are what is wrong now


BROKEN = {
    "empty": (b"", "empty"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "not a known image format.*DOCTYPE"),
    "noise": (bytes(range(256)), "not a known image format"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not a known image"),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_file_that_is_no_image_says_so_in_one_line(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN[kind]
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(ImageDecodeError, match=message) as caught:
        decode_image(tmp_path / "broken.jpg")
    assert str(tmp_path / "broken.jpg") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tiff_with_bands_says_how_it_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "bands.tif", np.zeros((70, 70, 7), np.int16), planarconfig="contig")
    with pytest.raises(ImageDecodeError, match=r"a TIFF that is no photograph: .* data\.channels=N"):
        decode_image(tmp_path / "bands.tif")


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_the_start_of_a_file_tells_what_is_no_image(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN[kind]
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(ImageDecodeError, match=message):
        check_start(tmp_path / "broken.jpg")


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "webp", "tiff", "ppm", "jp2", "tga"])
def test_the_start_of_an_image_of_any_format_is_good(tmp_path: Path, extension: str) -> None:
    Image.new("RGB", (64, 64), (200, 10, 0)).save(tmp_path / f"image.{extension}")
    check_start(tmp_path / f"image.{extension}")


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "webp", "tiff"])
def test_a_truncated_file_is_an_error(tmp_path: Path, extension: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = tmp_path / f"whole.{extension}"
    Image.fromarray(colours).save(path)
    decode_image(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageDecodeError, match=f"whole.{extension}") as caught:
        decode_image(path)
    assert "\n" not in str(caught.value)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_damaged_bytes_give_an_image_or_the_one_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for extension in ("jpg", "png", "gif", "webp", "tiff", "bmp"):
        path = tmp_path / f"image.{extension}"
        Image.fromarray(colours).save(path)
        content = path.read_bytes()
        for _ in range(25):
            damaged = bytearray(content)
            for place in random.integers(0, len(damaged), 20):
                damaged[place] = random.integers(0, 256)
            path.write_bytes(damaged)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert decode_image(path).mode == "RGB"
            except ImageDecodeError:
                pass


def test_a_missing_file_is_a_decode_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ImageDecodeError, match=r"gone\.jpg: FileNotFoundError"):
        decode_image(tmp_path / "gone.jpg")


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageDecodeError("a/b.jpg", "two\nlines")))
    assert (error.path, error.cause, str(error)) == ("a/b.jpg", "two lines", "cannot decode a/b.jpg: two lines")
    assert isinstance(error, ValueError)


def test_the_usual_extensions_are_known() -> None:
    assert {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"} <= EXTENSIONS
    assert not {".eps", ".txt", ".json", ".mp4", ".h5"} & EXTENSIONS
