"""Read images of any number of bands: TIFF, arrays of numpy, what PIL reads, or a stack of files with one band each.

What comes out is float32 `C H W` in the units of the file, never scaled, with NaN where a value is missing. Types that
float32 holds exactly are read (integers of 8 and 16 bits, floats), and one dataset holds one of them: a file of
another type has another scale. A value is missing where it equals `nodata` (or what a GeoTIFF itself names so) and,
with `missing="mean"`, where it is NaN. Infinite values are refused. With a `value_range` what is outside becomes its
nearer end.
"""

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vision_peft.data.decoding.array_files import read_array_headers, read_arrays
from vision_peft.data.decoding.image_values import decode_values, read_value_header
from vision_peft.data.decoding.images import MAX_PIXELS, ImageDecodeError, MisfitError, ValueRange
from vision_peft.data.decoding.missing_values import mark_missing, put_float32
from vision_peft.data.decoding.tiff_bands import is_tiff, read_tiff, read_tiff_header
from vision_peft.home_paths import expand_home

ARRAY_EXTENSIONS = frozenset((".npy", ".npz"))
LAYOUTS = ("auto", "hwc", "chw")
MISSING = ("error", "mean")
MAX_CHANNELS = 4096
MAX_BYTES = 2**32  # of an image in float32
_TYPES = ("uint8", "uint16", "int8", "int16", "float16", "float32", "float64")


class BandHeader(NamedTuple):
    """What files say of the bands of an image: kind of file, rows, columns, bands, type of a value, value for none."""

    format: str
    shape: tuple[int, int, int]
    dtype: str
    nodata: float | None = None


@dataclass(frozen=True)
class BandForm:
    """How the files of one dataset are read.

    Args:
        channels: bands of an image.
        dtype: type of their values, which all files share; None: whatever a file has.
        bands: their names, and of the arrays in an .npz file; none: they have no names.
        layout: of arrays of three axes: hwc, chw, or auto, by where `channels` is.
        nodata: value that stands for none.
        missing: what NaN is: error, or mean (a missing value as well).
        value_range: "full", or two numbers beyond which values are cut off.
        stack: endings of the names of files with one band each; the first names the image. None: one file an image.
        max_pixels: width x height beyond which a file is refused, by its header.
    """

    channels: int
    dtype: str | None = None
    bands: tuple[str, ...] = ()
    layout: str = "auto"
    nodata: float | None = None
    missing: str = "error"
    value_range: ValueRange = "full"
    stack: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS

    def record(self) -> dict[str, Any]:
        """Return what an adapter has to say so that files are read as here: what is not as by default."""
        values = dataclasses.asdict(self)
        known = {field.name: field.default for field in dataclasses.fields(self) if field.name != "max_pixels"}
        listed = {key: list(each) if isinstance(each, tuple) else each for key, each in values.items()}
        return {key: listed[key] for key, default in known.items() if values[key] != default}

    @classmethod
    def of(cls, recorded: Mapping[str, Any], max_pixels: int = MAX_PIXELS) -> "BandForm":
        """Return the form that `record` described."""
        names = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in recorded.items() if key in names
        }
        return cls(**given, max_pixels=max_pixels)


def read_bands(path: str | Path, form: BandForm) -> Tensor:
    """Decode an image to float32 `C H W`, NaN where a value is missing.

    Raises:
        MisfitError: other channels than those of the data, or values of another type.
        ImageDecodeError: whatever else goes wrong.
        ImportError: a TIFF, and the package for it is not installed.
    """
    header = read_band_header(path, form)  # of all files of a stack, before one of them is decoded
    parts = [_read(file, form) for file in list_files(path, form)]
    with _OneError(path):
        whole = np.empty(header.shape[2:] + header.shape[:2], np.float32)
        for place, part in enumerate(parts) if form.stack else [(slice(None), parts[0])]:
            values = part[..., 0] if form.stack else np.moveaxis(part, -1, 0)
            put_float32(whole[place], values, _choose_nodata(form, header.nodata))
    return convert_bands(torch.from_numpy(whole), form, path, header.nodata)


def read_band_item(item: Any, form: BandForm) -> Tensor:
    """Return what `read_bands` returns, of a path or of an array: `H W` of one band, `H W C` or `C H W`.

    Raises:
        TypeError: something else.
        ValueError: an array of other channels, or of another type than `form` has.
        ImageDecodeError: as `read_bands`; of an array too.
    """
    if isinstance(item, str | Path):
        return read_bands(expand_home(item), form)
    if not isinstance(item, np.ndarray):
        raise TypeError(f"this model takes {form.channels} bands: wanted a path or an array, got {type(item).__name__}")
    first = bands_come_first(item.shape, form.channels, form.layout)
    array = item if first else np.moveaxis(item[..., None] if item.ndim == 2 else item, -1, 0)
    types = (form.dtype,) if form.dtype else _TYPES
    if len(array) != form.channels or not array.size or array.dtype.name not in types:
        raise ValueError(
            f"this model takes arrays of {form.channels} bands of {' or '.join(types)}, got {item.dtype} {item.shape}"
        )
    whole = np.empty(array.shape, np.float32)
    put_float32(whole, array, form.nodata)
    return convert_bands(torch.from_numpy(whole), form, "the array")


def convert_bands(values: Tensor, form: BandForm, path: str | Path, nodata: float | None = None) -> Tensor:
    """Make missing values of float32 `C H W` NaN, cut off what is outside of the range, and refuse what is neither.

    Args:
        values: as `put_float32` makes them.
        path: of the image, for messages.
        nodata: what the file itself says that stands for none.
    """
    marked = mark_missing(_choose_nodata(form, nodata))
    if form.missing == "error" and (count := int(values.isnan().sum())):
        raise ImageDecodeError(
            path, (f"{count:,} values are NaN: data.missing=mean replaces them by the mean of their band")
        )
    if count := int(values.isinf().sum()):
        raise ImageDecodeError(path, f"{count:,} values are infinite")
    if marked is not None:
        values = values.masked_fill(values == marked, math.nan)
    if values.isnan().all():
        raise ImageDecodeError(path, "every value is missing")
    return values.clamp(*form.value_range) if isinstance(form.value_range, tuple) else values


def _choose_nodata(form: BandForm, nodata: float | None) -> float | None:
    return form.nodata if form.nodata is not None else nodata


def read_band_header(path: str | Path, form: BandForm) -> BandHeader:
    """Read what the files of an image hold and compare it with `form`; errors are those of `read_bands`."""
    headers = [_read_header(file, form) for file in list_files(path, form)]
    for file, header in zip(list_files(path, form), headers, strict=True):
        if header.shape[:2] != headers[0].shape[:2] or header.dtype != headers[0].dtype:
            there, here = (f"{h.shape[1]} x {h.shape[0]} of {h.dtype}" for h in (headers[0], header))
            raise ImageDecodeError(file, f"it is {here}, the first file of its image is {there}")
    first = headers[0]
    found = first._replace(shape=(*first.shape[:2], sum(header.shape[2] for header in headers)))
    if found.shape[2] != form.channels:
        raise MisfitError(path, f"it has {found.shape[2]} channel{'s' * (found.shape[2] != 1)}, wanted {form.channels}")
    if found.dtype not in _TYPES:
        raise MisfitError(path, f"its values are {found.dtype}: wanted one of {', '.join(_TYPES)}")
    if form.dtype is not None and found.dtype != form.dtype:
        raise MisfitError(path, f"its values are {found.dtype}, the data has {form.dtype}: their scales differ")
    return found


def list_files(path: str | Path, form: BandForm) -> list[str]:
    """List the files of an image: itself, or those of its stack in the order of the bands."""
    if not form.stack:
        return [str(path)]
    start = str(path).removesuffix(form.stack[0])
    return [start + ending for ending in form.stack]


def _read_header(file: str, form: BandForm) -> BandHeader:
    wanted = 1 if form.stack else form.channels
    with _OneError(file):
        kind = _find_kind(file)
        if kind == "TIFF":
            tiff = read_tiff_header(file)
            header = BandHeader(kind, tiff.shape, tiff.dtype.name, tiff.nodata)
        elif kind == "numpy":
            arrays = read_array_headers(file, form.bands)
            first = arrays[0]
            if any((array.shape, array.dtype) != (first.shape, first.dtype) for array in arrays):
                raise ValueError(f"its arrays differ: {first.dtype} {first.shape} and others")
            several = len(arrays) > 1
            shape = (*first.shape, len(arrays)) if several else first.shape
            if bands_come_first(shape, wanted, "hwc" if several else form.layout):
                shape = (*shape[1:], shape[0])
            height, width, bands = (*shape, 1)[:3]
            header = BandHeader(kind, (height, width, bands), first.dtype.name)
        else:
            image = read_value_header(file, max_pixels=form.max_pixels)
            deep = "uint16" if image.mode.startswith("I") else "float32" if image.mode == "F" else "uint8"
            bands = {"LA": 2, "RGB": 3, "RGBA": 4}.get(image.mode, 1)
            header = BandHeader(image.format, (image.size[1], image.size[0], bands), deep)
        height, width, bands = header.shape
        if height * width > form.max_pixels:
            raise ValueError(
                f"{height * width:,} pixels, more than max_pixels={form.max_pixels:,}; raise data.max_pixels if you "
                "trust the file"
            )
        if not height * width * bands or bands > MAX_CHANNELS or height * width * bands * 4 > MAX_BYTES:
            raise ValueError(
                f"{width:,} x {height:,} pixels of {bands:,} bands: wanted at most {MAX_CHANNELS:,} bands and "
                f"{MAX_BYTES // 2**30} GiB in float32, and not nothing"
            )
        return header


def _read(file: str, form: BandForm) -> np.ndarray:
    """Read the values of one file whose header was checked, `H W C`."""
    with _OneError(file):
        kind = _find_kind(file)
        if kind == "TIFF":
            return read_tiff(file)
        if kind == "numpy":
            arrays = read_arrays(file, form.bands)
            if len(arrays) > 1:
                return np.stack(arrays, axis=-1)
            first = bands_come_first(arrays[0].shape, 1 if form.stack else form.channels, form.layout)
            values = np.moveaxis(arrays[0], 0, -1) if first else arrays[0]
            return values if values.ndim == 3 else values[..., None]
        values = decode_values(file, max_pixels=form.max_pixels)
        return values if values.ndim == 3 else values[..., None]


def bands_come_first(shape: tuple[int, ...], channels: int, layout: str) -> bool:
    """Tell whether an array of `shape` is `C H W`, and not `H W C` or `H W`.

    Raises:
        ValueError: it is not an image, or could be one in two ways.
    """
    if len(shape) == 2:
        return False
    if len(shape) != 3:
        raise ValueError(f"an array of {len(shape)} axes {shape}: wanted rows, columns and bands")
    if layout == "auto" and shape[0] == channels == shape[2]:
        raise ValueError(f"bands may come first or last in an array {shape}: give data.layout=hwc or data.layout=chw")
    return shape[0] == channels if layout == "auto" else layout == "chw"


def _find_kind(file: str) -> str:
    """Say what reads a file, by its content: TIFF, numpy or PIL."""
    if not Path(file).is_file():
        raise FileNotFoundError("there is no such file")
    if is_tiff(file):
        return "TIFF"
    with Path(file).open("rb", buffering=0) as opened:
        start = opened.read(6)
    return "numpy" if start == b"\x93NUMPY" or start.startswith(b"PK\x03\x04") else "PIL"


class _OneError:
    """Raise `ImageDecodeError` of a file for whatever goes wrong with it, but for a package that is absent."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, ImageDecodeError | ImportError):
            plain = type(error) in (ValueError, zipfile.BadZipFile, zlib.error, FileNotFoundError)
            raise ImageDecodeError(self.path, str(error) if plain else f"{type(error).__name__}: {error}") from error
