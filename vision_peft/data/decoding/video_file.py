"""Look at a video file before a decoder gets it: what it is, what is in it, in which order its frames are stored."""

import enum
import functools
import itertools
import stat
from pathlib import Path
from typing import Any

from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.video_backends import explain_absence

_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")  # ffmpeg would open whatever other files these name


class VideoDecodeError(ImageDecodeError):
    """A video file that cannot be decoded; `backend` names what was tried, `cause` the reason of each in one line."""

    def __init__(self, path: str | Path, backend: str, cause: str) -> None:
        super().__init__(path, cause)
        self.backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoDecodeError, (self.path, self.backend, self.cause)


class FrameOrder(enum.Enum):
    """How the frames of a file are stored."""

    SHOWN = "around key frames as they are shown"
    TIMED = "in another order, with the times at which they are shown"
    UNTIMED = "in another order, without such times"


def check_video_file(path: str | Path) -> None:
    """Raise `VideoDecodeError` unless `path` is a regular file that is not empty and does not name other files."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            cause = "not a regular file but a folder, a pipe or a device"
        elif not status.st_size:
            cause = "the file is empty (0 bytes)"
        else:
            with Path(path).open("rb") as file:
                start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start.startswith(_PLAYLISTS):
                return
            cause = f"not a video but a playlist, which names other files (the file starts with {start[:16]!r})"
    except (OSError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
    raise VideoDecodeError(path, "none", cause)


@functools.lru_cache(maxsize=65536)
def is_only_sound(path: str, size: int) -> bool:
    """Whether a file of `size` bytes can be opened and has no video stream; its header alone is read."""
    del size  # another file of the same name is asked anew
    if explain_absence("pyav") is not None or not Path(path).is_file():
        return False
    import av

    try:
        with av.open(path) as container:
            return bool(container.streams) and not container.streams.video
    except (av.FFmpegError, OSError, ValueError):
        return False


def read_frame_order(path: str) -> FrameOrder:
    """Read how the frames of a file are stored, on which depends who finds the one that is asked for.

    When decord jumps to a key frame, it takes the n-th frame stored for the n-th shown: right if every frame stored
    before a key frame is shown before it, and every one behind it later. torchcodec sorts frames by their times.
    """
    status = Path(path).stat()
    return _read_frame_order(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _read_frame_order(path: str, size: int, changed: int) -> FrameOrder:
    """Read it once a file; `size` and `changed` distinguish files that replace each other."""
    if explain_absence("pyav") is not None:
        return FrameOrder.SHOWN
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stored = [packet for packet in container.demux(stream) if packet.size]
        keys = [packet.is_keyframe for packet in stored]
        times = [packet.pts for packet in stored if packet.pts is not None]
        if container.format.name == "avi" or len(times) < len(stored):
            return FrameOrder.UNTIMED if stream.codec_context.has_b_frames else FrameOrder.SHOWN
    before = [-(2**63), *itertools.accumulate(times, max)][:-1]
    behind = [*itertools.accumulate(reversed(times), min)][::-1]
    places = zip(keys, times, before, behind, strict=True)
    shown = all(latest < time <= earliest for key, time, latest, earliest in places if key)
    return FrameOrder.SHOWN if shown else FrameOrder.TIMED
