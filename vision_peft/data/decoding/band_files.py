"""Datasets of files with any number of bands, and the fields that users describe them by."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vision_peft.data.decoding.band_statistics import Bands
from vision_peft.data.decoding.bands import (
    LAYOUTS,
    MAX_CHANNELS,
    MISSING,
    BandForm,
    list_files,
    read_band_header,
    read_bands,
)
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError, ImageHeader, ValueRange
from vision_peft.data.decoding.tiff_bands import check_tiff_package
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.targets import Targets
from vision_peft.fields import choice, raise_all

_TIFF = (".tif", ".tiff")
_LOOKED_AT = 8  # files that may be damaged, before one that says what type values have
_CUT = (2, 98)  # percent of the values of a picture's band that become black and white


@dataclass(frozen=True, kw_only=True)
class BandOptions:
    """How images of other channels than RGB are read; without `channels` they are RGB, and nothing here acts."""

    channels: int | None = None
    bands: tuple[str, ...] = ()
    layout: str = "auto"
    nodata: float | None = None
    missing: str = "error"
    stack: tuple[str, ...] = ()
    show_bands: tuple[int, ...] = ()

    def check_bands(self, value_range: ValueRange, exif_rotation: bool) -> None:
        """Raise ValueError that names every field with a value that does not fit."""
        own = {name: getattr(self, name) for name in ("bands", "layout", "nodata", "missing", "stack", "show_bands")}
        if self.channels is None:
            used = [name for name, value in own.items() if value != getattr(BandOptions, name)]
            raise_all([f"data.{', data.'.join(used)}: for images with bands; give data.channels too" if used else None])
            return
        problems = [choice("data.layout", self.layout, LAYOUTS), choice("data.missing", self.missing, MISSING)]
        if not 1 <= self.channels <= MAX_CHANNELS:
            problems.append(f"data.channels must be 1 to {MAX_CHANNELS}, got {self.channels}")
        for name in ("bands", "stack"):
            if (given := own[name]) and len(given) != self.channels:
                problems.append(f"data.{name} must have {self.channels} entries (data.channels), got {len(given)}")
            if len({*given}) < len(given):
                problems.append(f"data.{name} names one twice: {', '.join(given)}")
        if self.show_bands and (len(self.show_bands) not in (1, 3) or not _are_below(self.show_bands, self.channels)):
            shown = list(self.show_bands)
            problems.append(f"data.show_bands must be 1 or 3 numbers from 0 to {self.channels - 1}, got {shown}")
        if value_range == "image":
            problems.append(
                "data.value_range=image is for grey images: with bands give full, or [low,high] to clip values"
            )
        if exif_rotation:
            problems.append("data.exif_rotation is for photographs: it cannot be combined with data.channels")
        raise_all(problems)

    def describe_bands(self, paths: Sequence[str], value_range: ValueRange, max_pixels: int) -> Bands | None:
        """Say how `paths` are read; of what type their values are, the first that can be read says. None: as RGB.

        Raises:
            ImportError: TIFF files, and the package for them is not installed.
        """
        if self.channels is None:
            return None
        if any(name.lower().endswith(_TIFF) for name in (*self.stack, *itertools.islice(paths, 1))):
            check_tiff_package()
        shared: dict[str, Any] = {
            name: getattr(self, name) for name in ("bands", "layout", "nodata", "missing", "stack")
        }
        form = BandForm(self.channels, None, value_range=value_range, max_pixels=max_pixels, **shared)
        for path in itertools.islice(paths, _LOOKED_AT):
            try:
                dtype = read_band_header(path, form).dtype
            except ImageDecodeError:
                continue
            form = BandForm(self.channels, dtype, value_range=value_range, max_pixels=max_pixels, **shared)
            break
        return Bands(form, self.show_bands)


class BandFiles(ImageFiles):
    """Images of any number of bands, decoded from files on every access to float32 tensors `C H W`; see `bands.py`."""

    def __init__(
        self,
        paths: TextArray,
        labels: IntArray,
        classes: Sequence[str],
        bands: Bands,
        targets: Targets | None = None,
    ) -> None:
        super().__init__(paths, labels, classes, max_pixels=bands.form.max_pixels, targets=targets)
        self.bands: Bands = bands

    def image(self, index: int) -> Tensor:
        return read_bands(self.paths[index], self.bands.form)

    def check(self, index: int, decode: bool) -> None:
        if decode:
            self.image(index)
        else:
            read_band_header(self.paths[index], self.bands.form)

    def key(self, index: int) -> str:
        return self.paths[index]

    def stored_size(self, index: int) -> int | None:
        """Return the bytes of all files of a stack; None where an image is one file, or one of them is not there."""
        if not self.bands.form.stack:
            return None
        try:
            return sum(Path(file).stat().st_size for file in list_files(self.paths[index], self.bands.form))
        except OSError:
            return None

    def count_pixels(self, index: int) -> int:
        height, width, _ = read_band_header(self.paths[index], self.bands.form).shape
        return height * width

    def header(self, index: int) -> ImageHeader:
        return read_image_header(self.paths[index], self.bands.form)

    def picture(self, index: int) -> Image.Image:
        return draw_bands(self.image(index), self.bands.show)


def read_image_header(path: str, form: BandForm) -> ImageHeader:
    """Return what the headers of an image say; the mode is the type of a value and the number of bands."""
    found = read_band_header(path, form)
    height, width, channels = found.shape
    return ImageHeader(found.format, f"{found.dtype} x {channels}", (width, height), 1)


def draw_bands(image: Tensor, show: Sequence[int]) -> Image.Image:
    """Draw one band in grey or three in colours, each between its own 2nd and 98th percentile; missing is black."""
    drawn = []
    for band in show:
        values = image[band].double().numpy()
        known = values[~np.isnan(values)]
        low, high = np.percentile(known, _CUT) if known.size else (0.0, 1.0)
        scaled = (np.nan_to_num(values, nan=low) - low) / (high - low if high > low else 1.0)
        drawn.append(np.rint(scaled.clip(0, 1) * 255).astype(np.uint8))
    return Image.fromarray(np.stack(drawn * (3 // len(drawn)), axis=-1))


def select_stacks(paths: Sequence[str], stack: tuple[str, ...], problems: list[str]) -> list[int]:
    """Choose which of `paths` name an image: those of the first band; what is absent is a problem."""
    there, chosen = {*paths}, []
    form = BandForm(len(stack), stack=stack)
    for place, path in enumerate(paths):
        if path.endswith(stack[0]):
            chosen.append(place)
            problems += [
                f"{path}: {file} is missing (data.stack)" for file in list_files(path, form) if file not in there
            ]
        elif not path.endswith(stack):
            problems.append(f"{path}: its name ends in none of data.stack ({', '.join(stack)})")
    return chosen


def _are_below(numbers: Sequence[int], end: int) -> bool:
    return all(0 <= number < end for number in numbers)
