"""Measure the bands of the training images once, before the training: every image is decoded, by threads."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.band_statistics import BandStatistics, BandSums, find_offset, finish
from vision_peft.data.decoding.images import ImageDecodeError, MisfitError
from vision_peft.data.loading.cached_images import count_cores

Progress = Callable[[int, int], None]
_AT_ONCE = 16  # images that a thread takes at a time


def measure_bands(
    dataset: ImageDataset, rank: int = 0, world_size: int = 1, progress: Progress | None = None
) -> tuple[BandSums, list[ImageDecodeError]]:
    """Sum over every `world_size`-th image from number `rank` on, and list why images cannot be decoded.

    The sums of all processes together are exact.
    """
    offset = _choose_offset(dataset)
    whole, errors, own = BandSums(offset), list[ImageDecodeError](), range(rank, len(dataset), world_size)

    def measure(start: int) -> tuple[BandSums, list[ImageDecodeError]]:
        sums, bad = BandSums(offset), []
        for index in own[start : start + _AT_ONCE]:
            try:
                sums.add(dataset.image(index))
            except ImageDecodeError as error:
                kind = MisfitError if isinstance(error, MisfitError) else ImageDecodeError
                bad.append(kind(error.path, error.cause))  # without the frames, which hold the image
            except OSError as error:
                bad.append(ImageDecodeError(dataset.path(index), f"{type(error).__name__}: {error}"))
        return sums, bad

    pool = ThreadPoolExecutor(count_cores())
    try:
        starts = range(0, len(own), _AT_ONCE)
        for start, (sums, bad) in zip(starts, pool.map(measure, starts), strict=True):
            whole.join(sums)
            errors += bad
            if progress is not None:
                progress(min(start + _AT_ONCE, len(own)), len(own))
    finally:
        pool.shutdown(cancel_futures=True)
    return whole, errors


def combine(parts: Sequence[Mapping[str, Any]]) -> BandStatistics:
    """Return the statistics of the sums of all processes, each as `dataclasses.asdict` gives it."""
    return finish(BandSums(**part) for part in parts)


def _choose_offset(dataset: ImageDataset) -> list[float]:
    """Take the means of the first image that can be decoded, which is the same in every process."""
    for index in range(len(dataset)):
        try:
            return find_offset(dataset.image(index))
        except (ImageDecodeError, OSError):
            continue
    return [0.0] * dataset.channels
