"""Safe decoding of image files with PIL.

What comes out is always 8-bit RGB. Grey, palette, CMYK and alpha images are converted as PIL converts them; alpha is
dropped, not composited. Greyscale of more than 8 bits is scaled, because PIL's own conversion would saturate it:

* `I;16` (16-bit): 0..65535 becomes 0..255.
* `I` (32-bit integer): as 16-bit where all values fit into it, else the image's own minimum..maximum becomes 0..255.
* `F` (float): the narrowest of 0..1 and 0..255 that holds all values becomes 0..255, else the image's own
  minimum..maximum.

That is the `value_range` "full". With "image" the image's own minimum..maximum becomes 0..255, with two numbers the
range between them, and what is outside becomes 0 or 255.

Of an animation the first frame is taken. A file's format is read from its content, never from its extension, and is
one of `FORMATS`: plugins that start other programs (EPS) or read odd containers stay closed.
"""

import io
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vision_peft.data.decoding.image_costs import check_cost
from vision_peft.data.decoding.image_kinds import EXTENSIONS as EXTENSIONS
from vision_peft.data.decoding.image_kinds import FORMATS, START, accepts_start
from vision_peft.printable import LONGEST_LINE, printable

MAX_PIXELS = 100_000_000
COLOUR = 2**24  # that numbers of colours start from
LONGEST_CAUSE = 1000  # letters
_PIXELS_AT_ONCE = 2**20
_PILS_LIMIT = Image.MAX_IMAGE_PIXELS or 0
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
_TELL_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # what PIL finds it in
ValueRange = str | tuple[float, float]  # "full", "image", or which values become 0 and 255
_opening = threading.Lock()  # PIL's limit and the filters of warnings belong to the whole process
if hasattr(os, "register_at_fork"):  # a thread that held it while the process forked does not exist in the child
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)


class ImageDecodeError(ValueError):
    """An image file that cannot be decoded; `path` is the file, `cause` the reason in one line."""

    def __init__(self, path: str | Path, cause: str) -> None:
        super().__init__(str(path), printable(" ".join(cause.split()), LONGEST_CAUSE))
        self.path, self.cause = self.args

    def __str__(self) -> str:
        return f"cannot decode {printable(self.path, LONGEST_LINE)}: {self.cause}"


class MisfitError(ImageDecodeError):
    """A sound file that is not what the data is made of: of other channels, or of values of another type."""


class ImageHeader(NamedTuple):
    """Format and mode in PIL's words, width and height in pixels as stored, EXIF orientation 1 to 8 (1: upright)."""

    format: str
    mode: str
    size: tuple[int, int]
    orientation: int


def decode_image(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    exif_rotation: bool = False,
    value_range: ValueRange = "full",
    content: bytes | None = None,
) -> Image.Image:
    """Decode an image file to an 8-bit RGB PIL image.

    `max_pixels` (width x height) is compared with the header before anything is decoded. `exif_rotation` turns the
    image as its EXIF orientation says; the published benchmarks ignore it, so it is off. `value_range` is of greyscale
    of more than 8 bits. `content` is what the file holds where there is none, and `path` then its name in messages.
    Raises `ImageDecodeError` for whatever goes wrong. Threads may decode at the same time.
    """
    with raise_one_error(path, max_pixels, content), open_with_limit(path, max_pixels, content) as image:
        check_cost(image, path, content)
        huge = image.width * image.height > _PILS_LIMIT
        with _pixel_limit(max_pixels) if huge else nullcontext():  # PIL checks a TIFF here once more
            image.load()
        return _to_rgb(_turn_upright(image) if exif_rotation else image, value_range)


def convert_image(
    image: Image.Image, *, max_pixels: int = MAX_PIXELS, exif_rotation: bool = False, value_range: ValueRange = "full"
) -> Image.Image:
    """Convert an image that somebody opened, whatever its mode, to what `decode_image` makes of its file.

    Raises `ImageDecodeError`: more than `max_pixels`, or a file that turns out to be damaged when it is read.
    """
    name = getattr(image, "filename", "") or "the image"
    if (pixels := image.width * image.height) > max_pixels:
        raise ImageDecodeError(name, f"it has {pixels:,} pixels, wanted at most max_pixels={max_pixels:,}")
    with raise_one_error(name, max_pixels, b""):
        return _to_rgb(_turn_upright(image) if exif_rotation else image.copy(), value_range)


def read_pixel_count(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> int:
    """Read width x height from the header of an image file; raises `ImageDecodeError` as `decode_image` does."""
    with raise_one_error(path, max_pixels), open_with_limit(path, max_pixels) as image:
        return image.width * image.height


def read_values(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> tuple[str, float, float] | None:
    """Read PIL's mode, the smallest and the largest value of greyscale of more than 8 bits; None: it is another image.

    Raises `ImageDecodeError` as `decode_image` does.
    """
    with raise_one_error(path, max_pixels, content), open_with_limit(path, max_pixels, content) as image:
        if not is_deep(image.mode):
            return None
        check_cost(image, path)
        return image.mode, *_find_range(image)


def check_start(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raise `ImageDecodeError` unless a file starts as an image does.

    Of a file that does nothing but these bytes is read, and by many threads at a time; of any other the whole header.
    """
    with raise_one_error(path, max_pixels):
        _refuse_irregular(path)
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  a Path takes as long as the rest
            start = file.read(START)
    if not accepts_start(start):
        read_pixel_count(path, max_pixels=max_pixels)


def read_header(path: str | Path, *, max_pixels: int = MAX_PIXELS, content: bytes | None = None) -> ImageHeader:
    """Read what a file that decodes, or its `content`, is, as stored; raises `ImageDecodeError` as `decode_image`."""
    with raise_one_error(path, max_pixels, content), open_with_limit(path, max_pixels, content) as image:
        return ImageHeader(image.format or "", image.mode, image.size, _read_orientation(image))


@contextmanager
def raise_one_error(path: str | Path, max_pixels: int, content: bytes | None = None) -> Iterator[None]:
    """Raise `ImageDecodeError` of a file, or of its `content`, for whatever goes wrong with it."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        cause = f"more than max_pixels={max_pixels:,} pixels ({error}); raise data.max_pixels if you trust the file"
        raise ImageDecodeError(path, cause) from None
    except UnidentifiedImageError:
        raise ImageDecodeError(path, _describe_start(Path(path), content)) from None
    except Exception as error:  # on damaged files PIL raises OSError, SyntaxError, struct.error, zlib.error and more
        raise ImageDecodeError(path, f"{type(error).__name__}: {error}") from error


def open_with_limit(path: str | Path, max_pixels: int, content: bytes | None = None) -> Image.Image:
    """Open an image and read its header, with PIL's own check of it at our limit, as an error."""
    if content is None:
        _refuse_irregular(path)
    with _pixel_limit(max_pixels):
        return Image.open(path if content is None else io.BytesIO(content), formats=FORMATS)


def _refuse_irregular(path: str | Path) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - opening a pipe would wait for ever
        raise OSError("not a regular file but a folder, a pipe or a device")


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Have PIL check the header with our limit, as an error; this also covers images inside an image."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes, of large files with a plus


def _describe_start(path: Path, content: bytes | None) -> str:
    if content is None:
        with path.open("rb") as file:
            content = file.read(24)
    start = content[:24]
    if start.startswith(_TIFF):
        return "a TIFF that is no photograph: images with bands are read with data.channels=N, the number of bands"
    return f"not a known image format (the file starts with {start!r})" if start else "the file is empty (0 bytes)"


def is_deep(mode: str) -> bool:
    """Whether an image of this mode is greyscale of more than 8 bits."""
    return mode.startswith("I;16") or mode in ("I", "F")


def _read_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF data raise as many errors as broken images; the image is good without them
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turn_upright(image: Image.Image) -> Image.Image:
    """Return a copy turned as its EXIF orientation says; PIL's own function writes the other EXIF data anew as well."""
    image.load()  # a PNG may have them behind the picture
    if (orientation := _read_orientation(image)) == 1:
        return image.copy()
    upright = image.transpose(_TURNS[orientation])
    for name in _TELL_ORIENTATION:
        upright.info.pop(name, None)
    return upright


def _to_rgb(image: Image.Image, value_range: ValueRange) -> Image.Image:
    if not is_deep(image.mode):
        image.info.pop("transparency", None)  # alpha is dropped; PIL would warn about palettes that carry it
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy one that is RGB already
    low, high = _find_range(image)
    if not math.isfinite(high - low):
        raise ValueError("the image holds NaN or infinite values")
    if isinstance(value_range, tuple):
        low, high = value_range
    elif value_range == "full":
        tops = (1, 255) if image.mode == "F" else (65535,)
        low, high = next(((0, top) for top in tops if low >= 0 and high <= top), (low, high))
    return _scale_to_grey(image, low, high)


def _find_range(image: Image.Image) -> tuple[float, float]:
    """Find the smallest and the largest value; NaN where there is one."""
    ranges = [(values.min(), values.max()) for _, values in _read_rows(image)]
    lows, highs = np.array(ranges).T
    return float(lows.min()), float(highs.max())


def _scale_to_grey(image: Image.Image, low: float, high: float) -> Image.Image:
    """Have `low` and what is below become 0, `high` and what is above 255."""
    factor = 255 / (high - low) if high > low else 0.0
    grey = np.empty((image.height, image.width), np.uint8)
    for top, values in _read_rows(image):
        grey[top : top + len(values)] = np.rint((values.clip(low, high) - low) * factor)
    return Image.fromarray(grey).convert("RGB")


def _read_rows(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Read some rows at a time, each part with the number of its first one: a whole image of floats takes gigabytes."""
    step = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, step):
        part = image.crop((0, top, image.width, min(top + step, image.height)))
        yield top, np.asarray(part).astype(np.float64)
