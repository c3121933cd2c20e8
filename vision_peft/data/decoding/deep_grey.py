"""Greyscale of more than 8 bits: which of its values become black and white, and what the images really hold."""

import math
import os
from collections.abc import Iterable, Sequence

from vision_peft.data.decoding.images import ImageDecodeError, ValueRange, read_values
from vision_peft.printable import warn

VALUE_RANGES = ("full", "image")
LOOKED_AT = 16  # images
_ALWAYS_8_BITS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp"))


def check_value_range(given: ValueRange) -> None:
    """Raise ValueError unless `data.value_range` is a word of `VALUE_RANGES` or two numbers in rising order."""
    if given not in VALUE_RANGES and not (isinstance(given, tuple) and given[0] < given[1]):
        got = list(given) if isinstance(given, tuple) else given
        raise ValueError(f"data.value_range is full, image or two numbers such as [0,4095]; got {got}")


def choose_few(number: int) -> list[int]:
    """Choose which of so many images are looked at: a few from all over."""
    return [*dict.fromkeys(number * place // LOOKED_AT for place in range(LOOKED_AT))] if number else []


def warn_of_deep_grey(paths: Sequence[str], where: str, value_range: ValueRange, max_pixels: int) -> None:
    """Decode a few of `paths` and warn where they are greyscale of more than 8 bits, of the range that is used.

    Args:
        where: the data, for the message.
    """
    few = [paths[number] for number in choose_few(len(paths))]
    few = [path for path in few if os.path.splitext(path)[1].lower() not in _ALWAYS_8_BITS]  # noqa: PTH122
    _warn_of([_read(path, max_pixels) for path in few], where, value_range)


def warn_of_deep_grey_in(contents: Iterable[bytes], where: str, value_range: ValueRange, max_pixels: int) -> None:
    """Do the same with a few images as they are stored in tables or archives."""
    _warn_of([_read(where, max_pixels, content) for content in contents], where, value_range)


def _warn_of(values: Sequence[tuple[str, float, float] | None], where: str, value_range: ValueRange) -> None:
    found = [each for each in values if each]
    lows, highs = [low for _, low, _ in found], [high for *_, high in found]
    if not found or value_range == "image":
        return
    low, high = min(lows), max(highs)
    hold = f"the {len(found)} looked at hold {low:,.6g} to {high:,.6g}"
    if isinstance(value_range, tuple):
        if low < value_range[0] or high > value_range[1]:
            words = f"{value_range[0]:,g} to {value_range[1]:,g} becomes 0 to 255 (data.value_range)"
            _warn(where, f"{words}, {hold}: what is outside becomes black or white")
        return
    if any(mode == "F" for mode, *_ in found) or not 0 <= low <= high <= 65535:
        words = "the first of 0 to 1, 0 to 255, 0 to 65,535 and its own range that holds an image becomes 0 to 255"
        _warn(where, f"{words}; {hold}: data.value_range=[{low:.6g},{high:.6g}] scales all alike")
        return
    top = 2 ** max(8, math.ceil(math.log2(high + 1))) - 1 if high > 0 else 255
    advice = f": data.value_range=[0,{top}] uses all of 0 to 255" if top < 65535 else ""
    _warn(where, f"0 to 65,535 becomes 0 to 255; {hold}{advice}")


def _read(path: str, max_pixels: int, content: bytes | None = None) -> tuple[str, float, float] | None:
    try:
        values = read_values(path, max_pixels=max_pixels, content=content)
    except ImageDecodeError:  # whoever decodes all of them says so
        return None
    return values if values and all(map(math.isfinite, values[1:])) else None


def _warn(where: str, words: str) -> None:
    warn(f"{where}: greyscale of more than 8 bits: {words}", stacklevel=6)
