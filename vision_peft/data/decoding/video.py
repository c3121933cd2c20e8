"""Decode frames of video files by decord, torchcodec or PyAV, the same frames whichever it is.

Frames are RGB, in the order they are shown, turned as the file's rotation says. A decoder decodes with one thread and
lives within one call. One that outlives a fork deadlocks (decord) or gives wrong frames in silence (torchcodec), so
none is ever kept.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vision_peft.data.decoding.video_backends import choose_backends
from vision_peft.data.decoding.video_file import VideoDecodeError, check_video_file
from vision_peft.data.decoding.video_readers import READERS, TooFewFrames

Choose = Callable[[int], Sequence[int]]  # frames of a video -> indices of those that are wanted
_DECORD_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


def decode_clip(path: str | Path, indices: Sequence[int] | Choose, backend: str = "auto") -> np.ndarray:
    """Return frames `indices` (from 0, in any order, repeated or not) of a video file as uint8 `T H W 3`.

    `indices` may be a function of the number of frames, so that the file is opened once. `backend` is "decord",
    "torchcodec", "pyav", or "auto": the first of them that is installed and can decode the file.

    Raises:
        VideoDecodeError: no backend can decode the file.
        IndexError: a frame before the first or behind the last is asked for.
        ImportError: the backend, or with "auto" every one, is not installed.
    """
    check_video_file(path)
    causes: dict[str, str] = {}
    for name in choose_backends(backend):
        frames, causes[name] = _try_backend(path, indices, name)
        if frames is not None:
            return frames
    raise VideoDecodeError(path, ", ".join(causes), "; ".join(f"{name}: {cause}" for name, cause in causes.items()))


def count_frames(path: str | Path, backend: str = "auto") -> int:
    """Return the number of frames of a video file; raises as `decode_clip` does."""
    counts: list[int] = []

    def ask_for_none(frames: int) -> Sequence[int]:
        counts.append(frames)
        return []

    decode_clip(path, ask_for_none, backend)
    return counts[-1]


def _try_backend(path: str | Path, indices: Sequence[int] | Choose, name: str) -> tuple[np.ndarray | None, str]:
    """Return the frames and "", or None and why one backend cannot decode them; no error keeps its decoder alive."""
    choose = indices if callable(indices) else None
    try:
        reader = READERS[name](str(path))
    except Exception as error:  # each library has errors of its own
        return None, _describe(error)
    count = reader.count
    for _ in range(2):
        if count < 1:
            return None, "the file holds no frames"
        wanted = list(choose(count) if choose else indices)  # pyright: ignore[reportArgumentType]
        if outside := [index for index in wanted if not 0 <= index < count]:
            raise IndexError(f"{path}: frames {outside[:5]} asked of a video of {count} frames, 0 to {count - 1}")
        if not wanted:
            return np.empty((0, 0, 0, 3), np.uint8), ""
        try:
            return reader.frames(wanted), ""
        except TooFewFrames as error:
            if choose is None:
                return None, _describe(error)
            count = error.frames
        except Exception as error:
            return None, _describe(error)
    return None, "the number of frames changes from one reading to the next"


def _describe(error: Exception) -> str:
    """Return one line without the stack that the C++ libraries append."""
    line = _DECORD_PLACE.sub("", str(error).strip().split("\n")[0])
    return line or type(error).__name__
