"""Open a video file: the one way in which anything here does, whether it decodes, counts, checks or re-encodes.

A file has to be a regular one and to start as one of `CONTAINERS` does. ffmpeg (through PyAV) then reads it as that
container, without guessing, without following references to other files and from the disk only.
"""

import functools
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.video_backends import explain_absence
from vision_peft.printable import printable

CONTAINERS = ("mov", "matroska", "avi", "asf", "flv", "mpeg", "mpegvideo", "mpegts", "ogg", "gif")  # ffmpeg's names
MAX_FRAME_PIXELS = 36_000_000  # 8K has 35.4 million
MAX_CLIP_BYTES = 2**31  # of the frames that are asked for at a time, at three bytes a pixel
_STARTS = {
    b"\x1aE\xdf\xa3": "matroska",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"\0\0\1\xba": "mpeg",
    b"\0\0\1\xb3": "mpegvideo",
    b"OggS": "ogg",
    b"GIF8": "gif",
}
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # of QuickTime and MP4
_TRANSPORT = ((0, 188), (4, 192), (0, 204))  # place of the first sync byte, bytes from one to the next
_READ = 4 * 204
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")  # for a better word; the list above refuses them
_CXX_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


class VideoDecodeError(ImageDecodeError):
    """A video file that cannot be decoded; `backend` names what was tried, `cause` the reason of each in one line."""

    def __init__(self, path: str | Path, backend: str, cause: str) -> None:
        super().__init__(path, printable(" ".join(cause.split()), 1000))
        self.backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoDecodeError, (self.path, self.backend, self.cause)


class NoPicturesError(VideoDecodeError):
    """A file that can be opened and holds sound or other data only."""


class LargeClipError(VideoDecodeError):
    """Frames of which more are wanted than fit into `MAX_CLIP_BYTES`."""


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a video with PyAV, as `(container, stream)` with its first video stream; one thread decodes it.

    Raises:
        VideoDecodeError: not a regular file, empty, of an unknown container, damaged, without pictures, of a codec
            without a decoder or of frames of more than `MAX_FRAME_PIXELS`; raised in place of what PyAV raises inside
            the `with` block, too.
    """
    import av

    limits = {"format_whitelist": find_container(path), "protocol_whitelist": "file"}
    doubt = ""
    file, most = os.path.abspath(path), {"max_pixels": str(MAX_FRAME_PIXELS)}  # noqa: PTH100
    try:
        with av.open(file, format=limits["format_whitelist"], options=most, container_options=limits) as container:
            stream = _find_pictures(container)
            if stream is None:
                raise NoPicturesError(path, "pyav", "the file holds no video stream")
            if stream.codec_context is None:
                raise ValueError("there is no decoder for its video stream")
            _check_frame_size(stream.codec_context.width, stream.codec_context.height)
            if not stream.codec_context.width:  # no frame could be decoded to find it
                doubt = f" (its frames may be of more than {MAX_FRAME_PIXELS:,} pixels, which is the most)"
            stream.codec_context.options = most  # frames may be larger than the header says
            stream.thread_count = 1
            yield container, stream
    except VideoDecodeError:
        raise
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:  # IndexError: a stream that appears on the way
        raise VideoDecodeError(path, "pyav", describe_error(error) + doubt) from None


def find_container(path: str | Path) -> str:
    """Return which of `CONTAINERS` a file is, by its first bytes; raises `VideoDecodeError` for anything else."""
    try:
        start = _read_start(path)
    except (OSError, ValueError) as error:
        raise VideoDecodeError(path, "none", describe_error(error)) from None
    if found := _name_container(start):
        if found == "gif":  # PyAV would find the size of a screen by making one
            _check_gif(path, start)
        return found
    playlist = start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAYLISTS)
    what = "not a video but a playlist, which names other files" if playlist else "not a video of a known container"
    raise VideoDecodeError(path, "none", f"{what} (the file starts with {start[:16]!r})")


@functools.lru_cache(maxsize=65536)
def is_only_sound(path: str, size: int) -> bool:
    """Whether a file of `size` bytes can be opened and has no video stream; its header alone is read."""
    del size  # another file of the same name is asked anew
    if explain_absence("pyav") is not None:
        return False
    try:
        with open_video(path):
            return False
    except VideoDecodeError as error:
        return isinstance(error, NoPicturesError)


def check_clip_size(path: str | Path, frames: int, pixels: int) -> None:
    """Raise LargeClipError where so many frames of so many pixels are more than `MAX_CLIP_BYTES`."""
    if (size := 3 * frames * pixels) > MAX_CLIP_BYTES:
        cause = f"{frames:,} frames of {pixels:,} pixels at a time would take {size / 2**30:.1f} GiB, more than "
        advice = f"{MAX_CLIP_BYTES // 2**30}: vision-peft prepare-video makes videos smaller"
        raise LargeClipError(path, "none", cause + advice)


def describe_error(error: BaseException) -> str:
    """Return an error in one line, without the place and the stack that C++ libraries add."""
    if isinstance(error, OSError) or hasattr(error, "strerror"):
        return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
    return _CXX_PLACE.sub("", str(error).strip().split("\n")[0]) or type(error).__name__


def _read_start(path: str | Path) -> bytes:
    """Read the first bytes of a regular file that is not empty; opening a pipe does not wait."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a regular file but a folder, a pipe or a device")
        start = os.read(handle, _READ)
    finally:
        os.close(handle)
    if not start:
        raise ValueError("the file is empty (0 bytes)")
    return start


def _check_gif(path: str | Path, start: bytes) -> None:
    try:
        _check_frame_size(*struct.unpack_from("<HH", start.ljust(10, b"\0"), 6))
    except ValueError as error:
        raise VideoDecodeError(path, "none", str(error)) from None


def _check_frame_size(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise ValueError(
            f"its frames are {width:,} x {height:,}: wanted at most {MAX_FRAME_PIXELS:,} pixels; make it smaller "
            "(ffmpeg -i FILE -vf scale=-2:1080 SMALLER.mp4)"
        )


def _name_container(start: bytes) -> str | None:
    if start[4:8] in _ATOMS:
        return "mov"
    if start[:4] == b"RIFF" and start[8:11] == b"AVI":
        return "avi"
    for magic, name in _STARTS.items():
        if start.startswith(magic):
            return name
    for first, step in _TRANSPORT:
        syncs = start[first::step]
        if len(syncs) > 1 and syncs.strip(b"G") == b"":
            return "mpegts"
    return None


def _find_pictures(container: Any) -> Any:
    """Return the first video stream that is not a cover, None without one."""
    from av.stream import Disposition

    return next(
        (stream for stream in container.streams.video if Disposition.attached_pic not in stream.disposition), None
    )
