"""What the images of a data set hold, read once each by threads; of an image only its hashes and its form are kept."""

import hashlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError, ImageHeader

Progress = Callable[[int, int], None]
_AHEAD = 4  # images a thread that are asked for before the first of them is taken


@dataclass(frozen=True, slots=True)
class Content:
    """Hashes and form of one image; images in memory have no file and no header."""

    pixels: bytes  # SHA-256 of the size and the decoded RGB pixels: the same for a lossless copy in another format
    size: tuple[int, int]  # width, height in pixels, as a model would get it
    file: bytes | None = None  # SHA-256 of the file
    header: ImageHeader | None = None


class ProgressLine:
    """Things done, on stderr: one line written over and over on a terminal, else a line every half a minute."""

    def __init__(self, what: str = "images read") -> None:
        self.what = what
        self.terminal = sys.stderr.isatty()
        self.pause = 0.5 if self.terminal else 30.0  # seconds
        self.next = time.monotonic() + self.pause

    def __call__(self, done: int, total: int) -> None:
        text = f"{done:,} of {total:,} {self.what}"
        if self.terminal and done == total:
            print(f"\r{' ' * len(text)}\r", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self.next:
            self.next = time.monotonic() + self.pause
            print(f"\r{text}" if self.terminal else f"{text}\n", end="", file=sys.stderr, flush=True)


def read_contents(
    datasets: Mapping[str, ImageDataset], workers: int, progress: Progress | None = None
) -> dict[str, Content | ImageDecodeError]:
    """Read the content of every image of all `datasets` by its path, or why it cannot be decoded.

    An image that several of them share is read once. `workers` threads decode, so that as many images are in memory at
    the same time. `progress` is called with the images done and all of them.
    """
    places = {data.path(index): (data, index) for data in datasets.values() for index in range(len(data))}
    found: dict[str, Content | ImageDecodeError] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        for path, content in zip(places, _read_in_order(pool, places, workers * _AHEAD), strict=True):
            found[path] = content
            if progress is not None:
                progress(len(found), len(places))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _read_in_order(
    pool: ThreadPoolExecutor, places: Mapping[str, tuple[ImageDataset, int]], ahead: int
) -> Iterator[Content | ImageDecodeError]:
    """Yield the contents in the order of `places`; at most `ahead` are waited for at a time."""
    waiting: deque[Future[Content | ImageDecodeError]] = deque()
    for place in places.values():
        waiting.append(pool.submit(_read, *place))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(dataset: ImageDataset, index: int) -> Content | ImageDecodeError:
    path = dataset.path(index)
    try:
        image = dataset.image(index)
        pixels = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode() + image.tobytes()).digest()
        if (header := dataset.header(index)) is None:
            return Content(pixels, image.size)
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        return Content(pixels, image.size, digest, header)
    except ImageDecodeError as error:
        return ImageDecodeError(error.path, error.cause)  # a new one: the old keeps the frames that raised it
    except OSError as error:
        return ImageDecodeError(path, f"{type(error).__name__}: {error}")
