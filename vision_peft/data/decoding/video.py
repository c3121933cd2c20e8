"""Decode frames of video files by decord, torchcodec or PyAV, the same frames whichever it is.

Frames are RGB, in the order they are shown, turned as the file's rotation says. A decoder decodes with one thread and
lives within one call. One that outlives a fork deadlocks (decord) or gives wrong frames in silence (torchcodec), so
none is ever kept.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vision_peft.data.decoding.frame_pictures import PictureMaker
from vision_peft.data.decoding.video_backends import choose_backends
from vision_peft.data.decoding.video_file import LargeClipError, VideoDecodeError, check_clip_size, describe_error
from vision_peft.data.decoding.video_index import VideoIndex, read_index
from vision_peft.data.decoding.video_readers import read_all, read_by_decord, read_by_pyav, read_by_torchcodec

Choose = Callable[[int], Sequence[int]]  # frames of a video -> indices of those that are wanted
NEAR = 8  # frames decoded for each that is wanted, up to which it is cheaper to start at the first one than to seek
_READERS = {"decord": read_by_decord, "torchcodec": read_by_torchcodec, "pyav": read_by_pyav}


def decode_clip(path: str | Path, indices: Sequence[int] | Choose, backend: str = "auto") -> np.ndarray:
    """Return frames `indices` (from 0, in any order, repeated or not) of a video file as uint8 `T H W 3`.

    `indices` may be a function of the number of frames; it is called again where that turns out to be another.
    `backend` is "decord", "torchcodec", "pyav", or "auto": the first of them that is installed and gets the file, but
    PyAV where most frames up to the last one are wanted, or passed on the way: there it is the fastest.

    Raises:
        VideoDecodeError: no backend can decode the file, or these frames of it take more than `MAX_CLIP_BYTES`.
        IndexError: a frame before the first or behind the last is asked for.
        ImportError: the backend, or with "auto" every one, is not installed.
    """
    backends, index, causes = choose_backends(backend), read_index(path), dict[str, str]()
    choose = functools.cache(indices) if callable(indices) else lambda _: indices
    if backend == "auto" and index.frames and _goes_through([*choose(index.frames)]):
        backends = ["pyav", *(name for name in backends if name != "pyav")]
    for name in backends:
        if name in index.refusals:
            causes[name] = index.refusals[name]
            continue
        try:
            return _decode(path, index, choose, name)
        except (IndexError, LargeClipError):
            raise
        except VideoDecodeError as error:
            causes[name] = error.cause
        except Exception as error:  # each library has errors of its own
            causes[name] = describe_error(error)
    raise VideoDecodeError(path, ", ".join(causes), "; ".join(f"{name}: {cause}" for name, cause in causes.items()))


def _goes_through(wanted: Sequence[int]) -> bool:
    """Tell whether to decode from the start costs less than to seek: frames are asked all over a short video."""
    first, last = min(wanted, default=0), max(wanted, default=0)
    return first <= last - first and last < NEAR * len(wanted)


def decode_all(path: str | Path, backend: str = "auto", at_once: int = 8) -> Iterator[np.ndarray]:
    """Yield all frames of a video file, at most `at_once` at a time as uint8 `T H W 3`: those of `decode_clip`.

    Where `backend` allows it PyAV decodes them one after another, else one part after the other is asked for.

    Raises:
        VideoDecodeError, ImportError: as `decode_clip`.
    """
    if "pyav" not in choose_backends(backend):
        count = frame_count(path)
        yield from (
            decode_clip(path, range(start, min(start + at_once, count)), backend) for start in range(0, count, at_once)
        )
        return
    index, part, there = read_index(path), np.empty((0, 0, 0, 3), np.uint8), 0
    maker = PictureMaker(index.turn)
    with contextlib.closing(read_all(path, index)) as frames:
        for frame in frames:
            try:
                picture = maker.make(frame)
            except ValueError as error:
                raise VideoDecodeError(path, "pyav", describe_error(error)) from None
            if not there:
                part = np.empty((at_once, *picture.shape), np.uint8)
            part[there] = picture
            there += 1
            if there == at_once:
                yield part
                there = 0
    if there:
        yield part[:there]


def frame_count(path: str | Path, *, decode: bool = False) -> int:
    """Return the number of frames of a video file; with `decode` only after every one has been decoded.

    Raises:
        VideoDecodeError: PyAV cannot decode the file.
    """
    index = read_index(path)
    if index.frames is None or decode:
        return sum(1 for _ in read_all(path, index))
    return index.frames


def _decode(path: str | Path, index: VideoIndex, choose: Choose, name: str) -> np.ndarray:
    """Return the frames of one backend."""
    file = os.fspath(path)
    if index.frames is None:  # only PyAV gets such a file
        wanted = [*choose(index.guess)] if index.guess else []
        check_clip_size(path, len(wanted), index.pixels)
        frames = read_by_pyav(file, index, wanted)
        if frames is not None and [*choose(index.frames or 0)] == wanted:
            return frames
    count = index.frames or 0
    wanted = [*choose(count)]
    if outside := [number for number in wanted if not 0 <= number < count]:
        raise IndexError(f"{path}: frames {outside[:5]} asked of a video of {count} frames, 0 to {count - 1}")
    check_clip_size(path, len(wanted), index.pixels)
    if not wanted:
        return np.empty((0, 0, 0, 3), np.uint8)
    frames = _READERS[name](file, index, wanted)
    if frames is None:
        raise ValueError("the number of frames changes from one reading to the next")
    return frames
