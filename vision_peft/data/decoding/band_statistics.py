"""Mean and standard deviation of each band over many images, exact whatever process sums which of them.

Sums are kept as the numbers that make them up (J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997,
section 2.4, as Python's `math.fsum` does), so that their order changes no bit. Values are taken from those of one image
of the data, or else a large mean would swallow a small spread.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vision_peft.data.decoding.bands import BandForm
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.normalisation import resolve_normalisation


@dataclass(frozen=True)
class BandStatistics:
    """Mean and standard deviation of each band, in the units of the files; missing values do not count."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class Bands:
    """What the splits of one dataset share: how their files are read, and the statistics once they are known.

    Args:
        chosen: numbers of the bands that a picture shows, one or three; none: the first, of three all.
    """

    form: BandForm
    chosen: tuple[int, ...] = ()
    statistics: BandStatistics | None = None

    @property
    def show(self) -> tuple[int, ...]:
        """Numbers of the bands that a picture shows, one or three."""
        return self.chosen or ((0, 1, 2) if self.form.channels == 3 else (0,))

    def record(self) -> dict[str, Any]:
        """Return what an adapter has to say so that files are read and shown as here."""
        return {**self.form.record(), **({"show_bands": [*self.chosen]} if self.chosen else {})}

    @classmethod
    def of(cls, recorded: Mapping[str, Any], max_pixels: int = MAX_PIXELS) -> "Bands":
        """Return the bands that `record` described, without statistics."""
        return cls(BandForm.of(recorded, max_pixels), tuple(recorded.get("show_bands", ())))


class BandRange(NamedTuple):
    """What one band of an image holds: the smallest and the largest value, and the share of values that are missing."""

    low: float  # NaN where every value is missing
    high: float
    missing: float


@dataclass
class BandSums:
    """Sums over images of the values of each band, from which `offset` is taken."""

    offset: Sequence[float]
    counts: list[int] = field(default_factory=list)
    sums: list[list[float]] = field(default_factory=list)
    squares: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0 for _ in self.offset]
        self.sums = self.sums or [[] for _ in self.offset]
        self.squares = self.squares or [[] for _ in self.offset]

    def add(self, image: Tensor) -> None:
        """Add an image `C H W`, NaN where a value is missing."""
        for band, values in enumerate(image):
            known = values[~values.isnan()].double() - self.offset[band]
            self.counts[band] += known.numel()
            _add(self.sums[band], float(known.sum()))
            _add(self.squares[band], float(known.square().sum()))

    def join(self, other: "BandSums") -> None:
        """Add what another one with the same offset has summed."""
        for band, count in enumerate(other.counts):
            self.counts[band] += count
            for own, others in ((self.sums, other.sums), (self.squares, other.squares)):
                for number in others[band]:
                    _add(own[band], number)


def find_ranges(image: Tensor) -> tuple[BandRange, ...]:
    """Find what each band of an image `C H W` holds."""
    missing = image.isnan()
    lows = image.masked_fill(missing, math.inf).amin((1, 2)).tolist()
    highs = image.masked_fill(missing, -math.inf).amax((1, 2)).tolist()
    shares = missing.double().mean((1, 2)).tolist()
    return tuple(
        BandRange(*each) if each[2] < 1 else BandRange(math.nan, math.nan, 1.0)
        for each in zip(lows, highs, shares, strict=True)
    )


def find_offset(image: Tensor) -> list[float]:
    """Return the mean of each band of an image, rounded to what float32 holds; 0 of a band without a value."""
    means = image.double().nanmean(dim=(1, 2)).nan_to_num(0.0)
    return [float(mean) for mean in means.to(torch.float32)]


def finish(parts: Iterable[BandSums]) -> BandStatistics:
    """Return the statistics of all images that `parts`, which have one offset, were summed over.

    Raises:
        ValueError: bands without any value; all are named.
    """
    parts = list(parts)
    offset = parts[0].offset
    counts = [sum(part.counts[band] for part in parts) for band in range(len(offset))]
    if empty := [str(band) for band, count in enumerate(counts) if not count]:
        raise ValueError(f"no image of train has a value in band {', '.join(empty)} (from 0)")
    mean, std = [], []
    for band, count in enumerate(counts):
        total = math.fsum(number for part in parts for number in part.sums[band])
        square = math.fsum(number for part in parts for number in part.squares[band])
        mean.append(offset[band] + total / count)
        spread = math.sqrt(max(square / count - (total / count) ** 2, 0.0))
        std.append(spread if spread > 1e-9 * max(1.0, abs(mean[band])) else 1.0)  # a constant band is 0 everywhere
    return BandStatistics(tuple(mean), tuple(std))


def choose_band_normalisation(
    name: str, bands: Bands, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and std of each band in the units of the files; the measured ones unless `name` says otherwise.

    Args:
        name: see `resolve_normalisation`.
        mean, std: what `choose_normalisation` gives for that name, in shares of the range of values.

    Raises:
        ValueError: the bands were not measured.
    """
    channels, between = bands.form.channels, bands.form.value_range
    resolved = resolve_normalisation(name, bands.form)
    if resolved == "none":
        return (0.0,) * channels, (1.0,) * channels
    if resolved == "bands" or not isinstance(between, tuple):
        if bands.statistics is None:
            raise ValueError("the bands of the training images are not measured yet")
        return bands.statistics.mean, bands.statistics.std
    low, high = between
    if resolved == "half":
        mean = std = (0.5,) * channels
    return [low + (high - low) * each for each in mean], [(high - low) * each for each in std]


def _add(partials: list[float], number: float) -> None:
    """Add a number to a sum that is kept as numbers which do not overlap, from small to large."""
    kept = 0
    for partial in list(partials):
        large, small = (number, partial) if abs(number) >= abs(partial) else (partial, number)
        number = large + small
        rest = small - (number - large)
        if rest:
            partials[kept] = rest
            kept += 1
    partials[kept:] = [number]
