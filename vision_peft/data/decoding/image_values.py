"""Read the values that image files store: bands that PIL reads, and the numbers of masks and depths."""

from pathlib import Path

import numpy as np
from PIL import Image

from vision_peft.data.decoding.image_costs import check_cost
from vision_peft.data.decoding.image_storage import check_storage, load_stored, read_storage
from vision_peft.data.decoding.images import (
    COLOUR,
    MAX_PIXELS,
    ImageHeader,
    is_deep,
    open_with_limit,
    raise_one_error,
)

_CHANNELS = ("1", "L", "LA", "RGB", "RGBA")  # modes whose values are those of channels


def decode_values(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file to the values that it stores, `H W` or `H W C`; of black and white they are 0 and 255.

    Raises `ImageDecodeError` as `decode_image` does, and where values are numbers of colours (a palette) or inks, or
    cannot be had as they are stored.
    """
    with raise_one_error(path, max_pixels), open_with_limit(path, max_pixels) as image:
        _check_channels(image)
        check_cost(image, path)
        return np.array(image.convert("L")) if image.mode == "1" else load_stored(image)


def read_value_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read what an image file is as stored; raises `ImageDecodeError` for what `decode_values` refuses."""
    with raise_one_error(path, max_pixels), open_with_limit(path, max_pixels) as image:
        _check_channels(image)
        return ImageHeader(image.format or "", image.mode, image.size, 1)


def decode_numbers(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file to its numbers (H W) as they are stored: a mask or a map of depths, never colours.

    Of a palette these are the indices into it, of colours `COLOUR` + 65536 red + 256 green + blue.
    Raises `ImageDecodeError`, also of colours of more than 8 bits.
    """
    with raise_one_error(path, max_pixels), open_with_limit(path, max_pixels) as image:
        check_cost(image, path)
        if image.mode in ("1", "P"):
            return np.array(image)
        if image.mode == "PA":
            return np.array(image.getchannel("P"))
        if image.mode in ("L", "LA") or is_deep(image.mode):
            values = load_stored(image)
            return values[..., 0] if values.ndim == 3 else values
        if read_storage(image).bits > 8:
            check_storage(image)
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
        return COLOUR + 65536 * red + 256 * green + blue


def read_palette(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> list[tuple[int, int, int]] | None:
    """Read the colours of the palette of an image file; None: it has none. Raises `ImageDecodeError`."""
    with raise_one_error(path, max_pixels), open_with_limit(path, max_pixels) as image:
        numbers = (image.getpalette("RGB") or []) if image.mode == "P" else []
        return [*zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)] or None


def _check_channels(image: Image.Image) -> None:
    if image.mode not in _CHANNELS and not is_deep(image.mode):
        raise ValueError(f"its mode {image.mode} does not hold the values of channels")
    if image.mode != "1":
        check_storage(image)
