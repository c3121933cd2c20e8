"""Read the values of TIFF files: any number of bands, interleaved or in planes, in one page or one a page.

PIL reads one and three bands only, so that this is tifffile's work, which is imported where a TIFF is first met. It
runs on what a file says about itself, so that all of that is compared with limits before anything is decoded, and a
compressed part is unpacked by its true length first: a few kilobytes of zeros would else become gigabytes.
"""

import logging
import math
import zlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vision_peft.data.decoding.image_costs import check_tile

STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
MAX_PAGES = 512
MAX_PART_BYTES = 2**28  # of a strip or tile, unpacked, where that is more than twice its page
_DEFLATE, _LZW, _PACKBITS, _PLAIN = (8, 32946), 5, 32773, 1
_NODATA = 42113  # GDAL's tag
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType


class TiffHeader(NamedTuple):
    """What the pages of a TIFF say: rows, columns and bands, type of a value, value that stands for none."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    nodata: float | None


def check_tiff_package() -> None:
    """Raise ImportError where the package that reads TIFF files is not installed."""
    if find_spec("tifffile") is None:
        raise ImportError("TIFF files of bands need the package tifffile: pip install 'vision_peft[bands]'")


def is_tiff(path: str | Path) -> bool:
    """Whether a file starts as a TIFF does."""
    with Path(path).open("rb", buffering=0) as file:
        return file.read(4) in STARTS


def read_tiff_header(path: str | Path) -> TiffHeader:
    """Read what a TIFF holds, without a value of it; ValueError where its pages do not go together."""
    with _open(path) as tiff:
        return _describe(_list_pages(tiff))


def read_tiff(path: str | Path) -> np.ndarray:
    """Decode a TIFF whose header was checked to `H W C`; ValueError for a part that is not as long as it should be."""
    with _open(path) as tiff:
        pages = _list_pages(tiff)
        header = _describe(pages)
        planes = []
        for page in pages:
            _check_parts(page, tiff.filehandle)
            values = page.asarray(maxworkers=1)
            planes.append(np.moveaxis(values, 0, -1) if page.axes == "SYX" else values.reshape(*header.shape[:2], -1))
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)


def _open(path: str | Path) -> Any:
    check_tiff_package()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is raised
    return import_module("tifffile").TiffFile(path, _multifile=False)


def _list_pages(tiff: Any) -> list[Any]:
    """List the pages that hold the image: without overviews and masks, which share the file with it."""
    found = []
    for number, page in enumerate(tiff.pages):
        if number >= MAX_PAGES:
            raise ValueError(f"a TIFF of more than {MAX_PAGES:,} pages")
        whole = getattr(page, "keyframe", page) if type(page).__name__ == "TiffFrame" else page
        if not int(getattr(whole, "subfiletype", 0)) & (_REDUCED | _MASK):
            found.append(page.aspage())
    if not found:
        raise ValueError("a TIFF without a page of full size")
    return found


def _describe(pages: list[Any]) -> TiffHeader:
    first = pages[0]
    for number, page in enumerate(pages):
        if page.axes not in ("YX", "YXS", "SYX") or page.dtype is None:
            raise ValueError(f"page {number} is {page.axes or 'nothing'} of {page.dtype}: wanted rows, columns, bands")
        if (page.imagelength, page.imagewidth, page.dtype) != (first.imagelength, first.imagewidth, first.dtype):
            raise ValueError(
                f"page {number} is {page.imagewidth} x {page.imagelength} of {page.dtype}, page 0 "
                f"{first.imagewidth} x {first.imagelength} of {first.dtype}: the pages of an image must be alike"
            )
        if int(page.compression) not in (_PLAIN, _PACKBITS, _LZW, *_DEFLATE):
            raise ValueError(f"compression {page.compression} is not read: wanted none, deflate, LZW or PackBits")
        if int(page.photometric) == 3:
            raise ValueError("its values are palette colours, not measurements")
        _check_part_size(page)
    bands = sum(page.samplesperpixel for page in pages)
    tag = first.tags.get(_NODATA)
    return TiffHeader((first.imagelength, first.imagewidth, bands), np.dtype(first.dtype), _to_number(tag))


def _check_part_size(page: Any) -> None:
    """Raise ValueError where a strip or tile is unpacked to far more than its page is."""
    if page.is_tiled:
        check_tile((page.imagewidth, page.imagelength), (page.tilewidth, page.tilelength))
    part, size = (math.prod(shape) * page.dtype.itemsize for shape in (page.chunks, page.shape))
    if part > max(MAX_PART_BYTES, 2 * size):
        raise ValueError(f"a part of a page unpacks to {part:,} bytes, the whole page has {size:,}")


def _to_number(tag: Any) -> float | None:
    text = "" if tag is None else str(tag.value).strip("\x00 ")
    try:
        number = float(text)
    except ValueError:
        return None
    if math.isinf(number) and any(letter.isdigit() for letter in text):  # the largest one, rounded up
        return math.copysign(np.finfo(np.float64).max, number)
    return number


def _check_parts(page: Any, file: Any) -> None:
    """Raise ValueError where a strip or tile is missing, cut off, or unpacks to another length than its pixels have."""
    wanted = int(np.prod(page.chunked))
    if len(page.dataoffsets) < wanted or len(page.databytecounts) < wanted:
        raise ValueError(f"the file has {len(page.dataoffsets)} of the {wanted} parts of a page")
    for number, (offset, length) in enumerate(
        zip(page.dataoffsets[:wanted], page.databytecounts[:wanted], strict=True)
    ):
        size, part = _count_bytes(page, number), f"part {number} of a page"
        if length == 0:  # GDAL leaves out parts that hold no data; zeros would be taken for values
            raise ValueError(f"{part} is left out")
        if offset + length > file.size:
            raise ValueError(f"the file ends inside {part}")
        if int(page.compression) in _DEFLATE:
            file.seek(offset)
            found = len(zlib.decompressobj().decompress(file.read(length), size + 1))
            if found != size:
                more = "more" if found > size else f"{found:,} bytes"
                raise ValueError(f"{part} unpacks to {more}, its pixels have {size:,} bytes")
        elif int(page.compression) == _PLAIN and length < size:
            raise ValueError(f"{part} has {length:,} of {size:,} bytes")


def _count_bytes(page: Any, number: int) -> int:
    """Count the bytes of a strip or tile, unpacked; the last strip may have fewer rows."""
    whole = int(np.prod(page.chunks)) * page.dtype.itemsize
    if page.is_tiled:
        return whole
    rows = min(page.rowsperstrip, page.imagelength)
    strips = -(-page.imagelength // rows)
    return whole // rows * min(rows, page.imagelength - number % strips * rows)
