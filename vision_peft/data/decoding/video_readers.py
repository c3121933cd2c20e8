"""Read frames of a video by number: from a key frame with decord or torchcodec, from the start with PyAV.

Which files decord and torchcodec get, `video_index.py` says. Neither reports damage inside a file, but the ffmpeg in
each of them does (`native_log.py`): their frames are then thrown away, and PyAV's taken. These are the frames that come
out one after another, so that no frame depends on what else is asked for; one that is damaged is an error.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision_peft.data.decoding.clip_frames import ClipFrames
from vision_peft.data.decoding.frame_pictures import PictureMaker
from vision_peft.data.decoding.native_log import listen_to
from vision_peft.data.decoding.video_file import open_video
from vision_peft.data.decoding.video_index import VideoIndex


def read_by_decord(path: str, index: VideoIndex, wanted: Sequence[int]) -> np.ndarray:
    """Return the frames `wanted`, at least one, as uint8 `T H W 3`; seeks."""
    import decord

    def read() -> tuple[int, np.ndarray]:
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1)  # noqa: PTH100
        return len(reader), reader.get_batch(list(wanted)).asnumpy()

    return _read_without_errors("decord", read, index)


def read_by_torchcodec(path: str, index: VideoIndex, wanted: Sequence[int]) -> np.ndarray:
    """Return the frames `wanted`, at least one, as uint8 `T H W 3`; seeks."""
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    def read() -> tuple[int, np.ndarray]:
        file = os.path.abspath(path)  # noqa: PTH100
        decoder = VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        return len(decoder), decoder.get_frames_at(list(wanted)).data.numpy()

    return _read_without_errors("torchcodec", read, index)


def read_by_pyav(path: str, index: VideoIndex, wanted: Sequence[int]) -> np.ndarray | None:
    """Return the frames `wanted` as uint8 `T H W 3`, None if they are not all there or none; reads from the start.

    It reads to the end where the number of frames is not known yet, after which `index` knows it.
    """
    last = max(wanted, default=-1) if index.frames is not None else -1
    maker, clip = PictureMaker(index.turn), ClipFrames(path, wanted)
    with contextlib.closing(read_all(path, index)) as frames:
        for number, frame in enumerate(frames):
            if number in clip.missing:
                clip.put(number, maker.make(frame))
            if number == last:
                break
    return clip.array if wanted and not clip.missing else None


def read_all(path: str | Path, index: VideoIndex) -> Generator[Any]:
    """Yield PyAV's frames of a video as they are shown, decoded one after another; `index` learns their number.

    Raises:
        VideoDecodeError: a frame that is damaged or missing, frames of several sizes, no frames.
    """
    with open_video(path) as (container, stream):
        size, times = None, list[int | None]()
        for number, frame in enumerate(container.decode(stream)):
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                change = f"from {size[0]}x{size[1]} to {frame.width}x{frame.height}"
                raise ValueError(f"the size changes {change} at frame {number}")
            if frame.is_corrupt:
                raise ValueError(f"frame {number} is damaged")
            if frame.rotation != index.rotation:
                raise ValueError(f"it is turned another way from frame {number} on")
            if index.proven and [frame.pts] != [*index.times[number : number + 1]]:
                raise ValueError(f"frame {number} of {index.frames} is missing: the file is damaged")
            times.append(frame.pts)
            yield frame
        if len(times) < (index.frames or 1):
            raise ValueError(
                f"only {len(times)} of {index.frames} frames can be decoded" if times else "it holds no frames"
            )
        index.learn(times)


def _read_without_errors(name: str, read: Callable[[], tuple[int, np.ndarray]], index: VideoIndex) -> np.ndarray:
    log = listen_to(name)
    before = log.errors
    count, frames = read()
    if log.errors > before:
        raise ValueError("it meets errors inside the file")
    if count != index.frames:
        raise ValueError(f"it counts {count} frames, the packets are {index.frames}")
    return frames
