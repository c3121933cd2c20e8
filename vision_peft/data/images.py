"""Safe decoding of image files with PIL.

What comes out is always 8-bit RGB. Grey, palette, CMYK and alpha images are converted as PIL converts them; alpha is
dropped, not composited. Greyscale of more than 8 bits is scaled, because PIL's own conversion would saturate it:

* `I;16` (16-bit): 0..65535 becomes 0..255.
* `I` (32-bit integer): as 16-bit where all values fit into it, else the image's own minimum..maximum becomes 0..255.
* `F` (float): the narrowest of 0..1 and 0..255 that holds all values becomes 0..255, else the image's own
  minimum..maximum.

Of an animation the first frame is taken. A file's format is read from its content, never from its extension, and is
one of `FORMATS`: plugins that start other programs (EPS) or read odd containers stay closed.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vision_peft.data.dataset import ImageDataset

MAX_PIXELS = 100_000_000
_WANTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
Image.init()
FORMATS = tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)  # a build of PIL may lack AVIF
EXTENSIONS = frozenset(extension for extension, name in Image.EXTENSION.items() if name in FORMATS)


class ImageDecodeError(ValueError):
    """An image file that cannot be decoded; `path` is the file, `cause` the reason in one line."""

    def __init__(self, path: str | Path, cause: str) -> None:
        super().__init__(str(path), " ".join(cause.split()))
        self.path, self.cause = self.args

    def __str__(self) -> str:
        return f"cannot decode {self.path}: {self.cause}"


class ImageFiles(ImageDataset):
    """Images decoded from files on every access."""

    def __init__(
        self,
        paths: Iterable[Path],
        labels: Iterable[int],
        classes: Sequence[str],
        *,
        max_pixels: int,
        exif_rotation: bool,
    ) -> None:
        super().__init__(classes, labels)
        self.paths = [str(path) for path in paths]
        self.max_pixels = max_pixels
        self.exif_rotation = exif_rotation

    def image(self, index: int) -> Image.Image:
        return decode_image(self.paths[index], max_pixels=self.max_pixels, exif_rotation=self.exif_rotation)

    def path(self, index: int) -> str:
        return self.paths[index]


def decode_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, exif_rotation: bool = False) -> Image.Image:
    """Image file as an 8-bit RGB PIL image.

    `max_pixels` (width x height) is compared with the header before anything is decoded. `exif_rotation` turns the
    image as its EXIF orientation says; the published benchmarks ignore it, so it is off. Raises `ImageDecodeError`
    for whatever goes wrong.
    """
    try:
        with _pixel_limit(max_pixels), Image.open(path, formats=FORMATS) as image:
            image.load()
            upright = ImageOps.exif_transpose(image) if exif_rotation else image
            return _to_rgb(upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        cause = f"more than max_pixels={max_pixels:,} pixels ({error}); raise data.max_pixels if you trust the file"
        raise ImageDecodeError(path, cause) from None
    except UnidentifiedImageError:
        raise ImageDecodeError(path, _not_an_image(Path(path))) from None
    except Exception as error:  # on damaged files PIL raises OSError, SyntaxError, struct.error, zlib.error and more
        raise ImageDecodeError(path, f"{type(error).__name__}: {error}") from error


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """PIL's own check of the header with our limit, as an error; it also covers images inside an image."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _not_an_image(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(24)
    return f"not a known image format (the file starts with {start!r})" if start else "the file is empty (0 bytes)"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64), 0, 65535)
    if image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the image holds NaN or infinite values")
        low, high = values.min(), values.max()
        for top in (65535,) if image.mode == "I" else (1, 255):
            if low >= 0 and high <= top:
                return _grey(values, 0, top)
        return _grey(values, low, high)
    image.info.pop("transparency", None)  # alpha is dropped; PIL would warn about palettes that carry it
    return image.convert("RGB")


def _grey(values: np.ndarray, low: float, high: float) -> Image.Image:
    return Image.fromarray(np.rint((values - low) * (255 / (high - low))).astype(np.uint8)).convert("RGB")
