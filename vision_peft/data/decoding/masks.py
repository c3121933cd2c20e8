"""What the numbers of a mask file stand for: classes, or depths. Nothing here reads a colour image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision_peft.data.decoding.image_values import decode_numbers
from vision_peft.data.decoding.images import COLOUR, MAX_PIXELS, ImageDecodeError

IGNORE = 255  # in place of a class: the pixel does not count
MOST_CLASSES = 255
_SMALL = 65536  # values below it are looked up at once
_UNKNOWN = -1
_NAMED = 5  # values that a message names


@dataclass(frozen=True)
class ClassMasks:
    """Masks whose values stand for classes.

    Args:
        classes: names, in the order of their numbers.
        values: number of the class, or `IGNORE`, of each value that may occur; None: values are numbers of classes.
        ignore: the value that does not count.
    """

    classes: Sequence[str]
    values: Mapping[int, int] | None = None
    ignore: int = IGNORE

    padding = IGNORE  # where a mask is widened

    def read(self, path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Read the numbers of the classes (H W, uint8), `IGNORE` where a pixel does not count.

        Raises:
            ImageDecodeError: no image, or values that stand for nothing; each with the number of its pixels.
        """
        raw = decode_numbers(path, max_pixels=max_pixels)
        if raw.dtype.kind == "f":
            raise ImageDecodeError(path, "its values are fractions: wanted whole numbers, one per class")
        found = self._look_up(raw.astype(np.int64))
        if (unknown := found == _UNKNOWN).any():
            values, counts = np.unique(raw[unknown], return_counts=True)
            pairs = [*zip(values.tolist(), counts.tolist(), strict=True)]
            some = ", ".join(f"{_name(value)} ({count:,} pixels)" for value, count in pairs[:_NAMED])
            more = f" and {len(pairs) - _NAMED} other values" if len(pairs) > _NAMED else ""
            raise ImageDecodeError(path, f"{some}{more} in the mask stand for no class{self._describe()}")
        return found.astype(np.uint8)

    def count(self, mask: np.ndarray) -> np.ndarray:
        """Count the pixels of each class."""
        return np.bincount(mask.ravel(), minlength=256)[: len(self.classes)]

    def _look_up(self, raw: np.ndarray) -> np.ndarray:
        known = {number: number for number in range(len(self.classes))} if self.values is None else self.values
        known = {**known, self.ignore: IGNORE} if self.ignore not in known or self.values is None else known
        table = np.full(_SMALL, _UNKNOWN, np.int16)
        for value, number in known.items():
            if 0 <= value < _SMALL:
                table[value] = number
        if raw.max(initial=0) < _SMALL and raw.min(initial=0) >= 0:
            return table[raw]
        found = np.full(raw.shape, _UNKNOWN, np.int16)
        for value in np.unique(raw).tolist():
            red, green, blue = _split(value)
            grey = red if value >= COLOUR and red == green == blue else value  # a grey mask that was saved as colours
            found[raw == value] = known.get(value, known.get(grey, _UNKNOWN))
        return found

    def _describe(self) -> str:
        if self.values is None:
            return f": wanted 0 to {len(self.classes) - 1} for the classes in their order, {self.ignore} for no class"
        return ": data.values names those that do, as class or ignore"


@dataclass(frozen=True)
class DepthMasks:
    """Maps of depths (or any other number of each pixel), `scale` times the values of the file.

    0 stands for no measurement, in the file as the value `missing`.
    """

    scale: float = 0.001
    missing: int = 0

    classes = ()
    padding = 0

    def read(self, path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Read the depths (H W, float32), 0 where there is none.

        Raises:
            ImageDecodeError: no image, an image of colours, or values below 0 or not finite.
        """
        raw = decode_numbers(path, max_pixels=max_pixels)
        if raw.dtype == np.int32 and raw.max(initial=0) >= COLOUR:
            raise ImageDecodeError(path, "wanted one number for each pixel (16-bit grey or float), got colours")
        depths = raw.astype(np.float32)
        if not np.isfinite(depths).all() or depths.min(initial=0) < 0:
            raise ImageDecodeError(path, "wanted depths from 0 on, got negative, infinite or NaN ones")
        return np.where(raw == self.missing, np.float32(0), depths * np.float32(self.scale))

    def count(self, mask: np.ndarray) -> np.ndarray:
        """Count the pixels with a measurement."""
        return np.array([np.count_nonzero(mask)])


MaskReading = ClassMasks | DepthMasks


def _name(value: int) -> str:
    return "colour {},{},{}".format(*_split(value)) if value >= COLOUR else str(value)


def _split(value: int) -> tuple[int, int, int]:
    """Return red, green and blue of the number of a colour."""
    return value >> 16 & 255, value >> 8 & 255, value & 255
