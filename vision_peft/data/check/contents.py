"""What the images or videos of a dataset hold, read once each by threads; only hashes and form of each are kept."""

import hashlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.band_statistics import BandRange, find_ranges
from vision_peft.data.decoding.frame_folders import list_frames
from vision_peft.data.decoding.images import ImageDecodeError, ImageHeader
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.decoding.video_form import VideoForm, read_form
from vision_peft.data.distinct_items import list_distinct
from vision_peft.printable import show, show_over

Progress = Callable[[int, int], None]
_FRAMES_AT_ONCE = 8
_AHEAD = 4  # images a thread that are asked for before the first of them is taken


@dataclass(frozen=True, slots=True)
class Content:
    """Hashes and form of one image or video; images in memory have no file and no header, nor have videos."""

    pixels: bytes  # SHA-256 of the size and the decoded RGB pixels: the same for a lossless copy in another format
    size: tuple[int, int]  # width, height in pixels, as a model would get it
    file: bytes | None = None  # SHA-256 of the file
    header: ImageHeader | None = None
    form: VideoForm | None = None  # of a video
    ranges: tuple[BandRange, ...] = ()  # of each band, of an image that has bands


class ProgressLine:
    """Things done, on stderr: one line written over and over on a terminal, else a line every half a minute."""

    def __init__(self, what: str = "items read") -> None:
        self.what = what
        self.terminal = sys.stderr.isatty()
        self.pause = 0.5 if self.terminal else 30.0  # seconds
        self.next = time.monotonic() + self.pause

    def __call__(self, done: int, total: int) -> None:
        text = f"{done:,} of {total:,} {self.what}"
        if self.terminal and done == total:
            show_over("", len(text), sys.stderr)
        elif time.monotonic() >= self.next:
            self.next = time.monotonic() + self.pause
            if self.terminal:
                show_over(text, 0, sys.stderr)
            else:
                show(text, sys.stderr)


def read_contents(
    datasets: Mapping[str, ImageDataset], workers: int, progress: Progress | None = None
) -> dict[str, Content | ImageDecodeError]:
    """Read the content of every image of all `datasets` by its path, or why it cannot be decoded.

    An image that several of them share is read once. `workers` threads decode, so that as many images are in memory at
    the same time. `progress` is called with the images done and all of them.
    """
    sets = list(datasets.values())
    numbers, items = list_distinct(((index, data.path(index)) for index in range(len(data))) for data in sets)
    places = ((sets[number], item) for number, item in zip(numbers.tolist(), items.tolist(), strict=True))
    found: dict[str, Content | ImageDecodeError] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        for path, content in _read_in_order(pool, places, workers * _AHEAD):
            found[path] = content
            if progress is not None:
                progress(len(found), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _read_in_order(
    pool: ThreadPoolExecutor, places: Iterable[tuple[ImageDataset, int]], ahead: int
) -> Iterator[tuple[str, Content | ImageDecodeError]]:
    """Yield paths and contents in the order of `places`; at most `ahead` are waited for at a time."""
    waiting: deque[tuple[str, Future[Content | ImageDecodeError]]] = deque()
    for dataset, index in places:
        waiting.append((dataset.path(index), pool.submit(_read, dataset, index)))
        if len(waiting) > ahead:
            path, content = waiting.popleft()
            yield path, content.result()
    for path, content in waiting:
        yield path, content.result()


def _read(dataset: ImageDataset, index: int) -> Content | ImageDecodeError:
    path = dataset.path(index)
    try:
        if isinstance(dataset, VideoFiles):
            return _read_video(dataset, dataset.source_of(index))
        image = dataset.image(index)
        if isinstance(image, Tensor):
            bands, height, width = image.shape
            found: dict[str, Any] = {"size": (width, height), "ranges": find_ranges(image)}
            pixels = hashlib.sha256(f"{bands} {width}x{height} ".encode() + image.numpy().tobytes()).digest()
        else:
            found = {"size": image.size}
            pixels = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode() + image.tobytes()).digest()
        if (header := dataset.header(index)) is None:
            return Content(pixels, **found)
        file = dataset.file(index)
        return Content(pixels, **found, file=None if file is None else _hash_file(file), header=header)
    except ImageDecodeError as error:
        return ImageDecodeError(error.path, error.cause)  # a new one: the old keeps the frames that raised it
    except OSError as error:
        return ImageDecodeError(path, f"{type(error).__name__}: {error}")


def _read_video(dataset: VideoFiles, video: int) -> Content:
    """Decode every frame of a video, so that damage anywhere is found."""
    pixels, size, frames = hashlib.sha256(), (0, 0), 0
    for part in dataset.decode_parts(video, _FRAMES_AT_ONCE):
        size = part.shape[2], part.shape[1]
        pixels.update(f"{size[0]}x{size[1]} ".encode() * (not frames) + part.tobytes())
        frames += len(part)
    path = dataset.paths[video]
    if dataset.frame_counts is not None:
        suffixes = sorted({Path(name).suffix.lower().lstrip(".") for name in list_frames(path, dataset.frame_names)})
        return Content(pixels.digest(), size, form=VideoForm("folder", ", ".join(suffixes), frames, None, None))
    return Content(pixels.digest(), size, _hash_file(path), form=read_form(path))


def _hash_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
