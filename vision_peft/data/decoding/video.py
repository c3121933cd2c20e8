"""Frames of video files by decord, torchcodec or PyAV, the same frames whichever it is.

decord comes first: it is the faster of the two that need no system library. It has wheels for x86-64 only, cannot open
a gif or turn every width of a rotated video, and takes wrong frames without a word where those around a key frame are
stored in another order than shown (HEVC, MPEG-4 with B-frames such as XviD, H.264 with open groups): such files it does
not get. Then torchcodec (the extra `video`; needs ffmpeg's libraries; does not get AVI with B-frames: no times in it)
and PyAV follow. Frames are RGB, in the order they are shown, turned as the file's rotation says.

A decoder decodes with one thread and lives within one call. One that outlives a fork deadlocks (decord) or gives wrong
frames without a word (torchcodec), so none is ever kept.
"""

import enum
import functools
import importlib
import itertools
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.problems import unknown

Choose = Callable[[int], Sequence[int]]  # frames of a video -> indices of those that are wanted
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")  # ffmpeg would open whatever other files these name
_DECORD_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


class VideoDecodeError(ImageDecodeError):
    """A video file that cannot be decoded; `backend` names what was tried, `cause` the reason of each in one line."""

    def __init__(self, path: str | Path, backend: str, cause: str) -> None:
        super().__init__(path, cause)
        self.backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoDecodeError, (self.path, self.backend, self.cause)


class _TooFew(Exception):
    """Fewer frames come out of a file than it announces."""

    def __init__(self, frames: int, announced: int) -> None:
        super().__init__(f"only {frames} of {announced} frames can be decoded")
        self.frames = frames


class _Reader(Protocol):
    count: int  # frames

    def __init__(self, path: str) -> None: ...

    def frames(self, indices: Sequence[int]) -> np.ndarray: ...


def decode_clip(path: str | Path, indices: Sequence[int] | Choose, backend: str = "auto") -> np.ndarray:
    """Frames `indices` (from 0, in any order, repeated or not) of a video file as uint8 `T H W 3`.

    `indices` may be a function of the number of frames, so that the file is opened once. `backend` is "decord",
    "torchcodec", "pyav", or "auto": the first of them that is installed and can decode the file.

    Raises:
        VideoDecodeError: no backend can decode the file.
        IndexError: a frame before the first or behind the last is asked for.
        ImportError: the backend, or with "auto" every one, is not installed.
    """
    _check_file(path)
    causes: dict[str, str] = {}
    for name in _usable(backend):
        frames, causes[name] = _decoded(path, indices, name)
        if frames is not None:
            return frames
    raise VideoDecodeError(path, ", ".join(causes), "; ".join(f"{name}: {cause}" for name, cause in causes.items()))


def frame_count(path: str | Path, backend: str = "auto") -> int:
    """Count the frames of a video file; raises as `decode_clip` does."""
    counts: list[int] = []

    def last(frames: int) -> Sequence[int]:
        counts.append(frames)
        return []

    decode_clip(path, last, backend)
    return counts[-1]


def usable_backends() -> list[str]:
    """List the installed backends in the order in which they are tried."""
    return [name for name in _READERS if _why_not(name) is None]


def check_backend(backend: str) -> None:
    """Raise ValueError for an unknown backend (`data.decoder`), ImportError for one that is not installed."""
    _usable(backend)


def _usable(backend: str) -> list[str]:
    if backend != "auto" and backend not in _READERS:
        raise unknown("video decoder", backend, ("auto", *_READERS))
    asked = list(_READERS) if backend == "auto" else [backend]
    usable = [name for name in asked if _why_not(name) is None]
    if not usable:
        reasons = "; ".join(f"{name}: {_why_not(name)}" for name in asked)
        others = [name for name in _READERS if _why_not(name) is None]
        hint = f"take data.decoder={others[0]}, or auto" if others else "pip install av"
        raise ImportError(f"no video decoder ({reasons}). decord has wheels for x86-64 only: {hint}")
    return usable


@functools.cache
def _why_not(name: str) -> str | None:
    """Why a backend cannot be used here, None where it can."""
    module = {"decord": "decord", "torchcodec": "torchcodec.decoders", "pyav": "av"}[name]
    try:
        loaded: Any = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: torchcodec without ffmpeg's libraries
        return " ".join(str(error).split("\n")[0].split())
    if name == "torchcodec":
        try:
            loaded.VideoDecoder(b"no video")  # newer versions look for ffmpeg's libraries at the first video only
        except Exception as error:  # there is always one, whose class depends on the version
            if "libtorchcodec" in str(error):
                return "ffmpeg's libraries are not there, or of a version that it does not know"
    if name == "decord":
        loaded.logging.set_level(loaded.logging.QUIET)  # every damaged file is reported by its error, once
    return None


def _check_file(path: str | Path) -> None:
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            cause = "no plain file but a folder, a pipe or a device"
        elif not status.st_size:
            cause = "the file is empty (0 bytes)"
        else:
            with Path(path).open("rb") as file:
                start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start.startswith(_PLAYLISTS):
                return
            cause = f"a playlist, which names other files, is no video (the file starts with {start[:16]!r})"
    except (OSError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
    raise VideoDecodeError(path, "none", cause)


def _decoded(path: str | Path, indices: Sequence[int] | Choose, name: str) -> tuple[np.ndarray | None, str]:
    """Return the frames and "", or None and why one backend cannot decode them; no error keeps its decoder alive."""
    choose = indices if callable(indices) else None
    try:
        reader = _READERS[name](str(path))
    except Exception as error:  # each library has errors of its own
        return None, _cause(error)
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
        except _TooFew as error:
            if choose is None:
                return None, _cause(error)
            count = error.frames
        except Exception as error:
            return None, _cause(error)
    return None, "the number of frames changes from one reading to the next"


def _cause(error: Exception) -> str:
    """One line without the stack that the C++ libraries append."""
    line = _DECORD_PLACE.sub("", str(error).strip().split("\n")[0])
    return line or type(error).__name__


class _Decord:
    def __init__(self, path: str) -> None:
        import decord

        if _order(path) is not _Order.SHOWN:
            raise ValueError("frames are stored in another order than shown: decord would take wrong ones")
        self._reader = decord.VideoReader(path, num_threads=1)
        self.count = len(self._reader)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_batch(list(indices)).asnumpy()


class _Order(enum.Enum):
    """How the frames of a file are stored."""

    SHOWN = "around key frames as they are shown"
    TIMED = "in another order, with the times at which they are shown"
    UNTIMED = "in another order, without such times"


def _order(path: str) -> _Order:
    status = Path(path).stat()
    return _order_of(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _order_of(path: str, size: int, changed: int) -> _Order:
    """How the file's frames are stored, on which depends who finds the one that is asked for.

    When decord jumps to a key frame, it takes the n-th frame stored for the n-th shown: right if every frame stored
    before a key frame is shown before it, and every one behind it later. torchcodec sorts frames by their times.
    `size` and `changed` tell apart files that replace each other.
    """
    if _why_not("pyav") is not None:
        return _Order.SHOWN
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stored = [packet for packet in container.demux(stream) if packet.size]
        keys = [packet.is_keyframe for packet in stored]
        times = [packet.pts for packet in stored if packet.pts is not None]
        if container.format.name == "avi" or len(times) < len(stored):
            return _Order.UNTIMED if stream.codec_context.has_b_frames else _Order.SHOWN
    before = [-(2**63), *itertools.accumulate(times, max)][:-1]
    behind = [*itertools.accumulate(reversed(times), min)][::-1]
    places = zip(keys, times, before, behind, strict=True)
    shown = all(latest < time <= earliest for key, time, latest, earliest in places if key)
    return _Order.SHOWN if shown else _Order.TIMED


class _TorchCodec:
    def __init__(self, path: str) -> None:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        if _order(path) is _Order.UNTIMED:
            raise ValueError("the file does not say when its frames are shown: torchcodec would take wrong ones")
        self._decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        self.count = len(self._decoder)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._decoder.get_frames_at(list(indices)).data.numpy()


class _PyAV:
    """Reads from the start to the last frame wanted: the other two, where they work, seek."""

    def __init__(self, path: str) -> None:
        self._path = path
        # the header's own count is a guess in many files, and 0 in webm; packets are counted without decoding
        self.count = sum(1 for packet in self._read(decode=False) if packet.size and not packet.is_discard)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        wanted, last, found = set(indices), max(indices), {}
        number = -1
        for number, frame in enumerate(self._read(decode=True)):
            if number in wanted:
                # PyAV gives the angle that turns the stored picture upright, counter-clockwise
                found[number] = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            if number == last:
                break
        if number < last:
            raise _TooFew(number + 1, self.count)
        return np.stack([found[index] for index in indices])

    def _read(self, decode: bool) -> Iterator[Any]:
        import av

        with av.open(self._path) as container:
            if not container.streams.video:
                raise ValueError("the file holds no video stream")
            stream = container.streams.video[0]
            stream.thread_count = 1
            yield from container.decode(stream) if decode else container.demux(stream)


_READERS: dict[str, type[_Reader]] = {"decord": _Decord, "torchcodec": _TorchCodec, "pyav": _PyAV}


@functools.lru_cache(maxsize=65536)
def is_only_sound(path: str, size: int) -> bool:
    """Whether a file of `size` bytes can be opened and has no video stream; its header alone is read."""
    del size  # another file of the same name is asked anew
    if _why_not("pyav") is not None or not Path(path).is_file():
        return False
    import av

    try:
        with av.open(path) as container:
            return bool(container.streams) and not container.streams.video
    except (av.FFmpegError, OSError, ValueError):
        return False
