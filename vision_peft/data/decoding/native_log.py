"""Hear of damage that ffmpeg reports in its log and nowhere else.

ffmpeg goes on behind a damaged part of a container without a word but in its log, and paints over what it cannot
decode. PyAV marks such frames and has a log that can be read; decord and torchcodec do neither. Each carries an ffmpeg
of its own, whose log any user of the library may take over by `av_log_set_callback`.
"""

import atexit
import ctypes
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ERROR, _WARNING = 16, 24  # levels of ffmpeg's log; smaller is worse
_HEARD = (
    b"AVCodecContext",
    b"AVFilter",
)  # whose warnings count: a filter says no more when it changes a picture's size
# What ffmpeg says, at lower levels, where a part of a picture is missing, and where a whole one is: a key frame too,
# behind which it then shows nothing, or the last picture again, up to the next.
_MISSING = (b"concealing ", b"Frame num gap ")
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_Context = ctypes.POINTER(ctypes.POINTER(ctypes.c_char_p))  # -> its class -> the name of the class


class NativeLog:
    """The log of the ffmpeg that `library` is linked with; `errors` counts what was reported since the start.

    These are all errors, warnings of decoders and filters, and pictures that are missing or painted over in part.

    Raises:
        AttributeError: the library hides its ffmpeg.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.errors = 0
        self._callback = _Callback(self._hear)  # has to live as long as ffmpeg calls it
        set_callback = library.av_log_set_callback
        set_callback.argtypes, set_callback.restype = [ctypes.c_void_p], None
        set_callback(ctypes.cast(self._callback, ctypes.c_void_p))
        atexit.register(set_callback, ctypes.cast(library.av_log_default_callback, ctypes.c_void_p))

    def _hear(self, context: Any, level: int, text: Any, _values: Any) -> None:
        level &= 255  # the rest is a colour
        if level <= _ERROR:
            self.errors += 1
        elif level <= _WARNING:
            self.errors += _name_class(context) in _HEARD
        else:
            self.errors += ctypes.string_at(text).startswith(_MISSING)


@functools.cache
def listen_to(backend: str) -> NativeLog:
    """Take over the log of the ffmpeg of "decord" or "torchcodec", once a process."""
    if backend == "decord":
        from decord._ffi.base import _LIB

        return NativeLog(_LIB)
    import torchcodec  # pyright: ignore[reportMissingImports]

    return NativeLog(ctypes.CDLL(torchcodec.core_library_path))


@contextmanager
def capture_pyav() -> Iterator[list[tuple[int, str, str]]]:
    """Collect the errors that PyAV's ffmpeg reports in this thread, as (level, name of the demuxer or codec, text)."""
    import av.logging

    _mute_pyav()
    # PyAV throws its log away unless it is asked for. Whoever else uses PyAV may have changed that since the last file.
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # the next file may be damaged in the same way
    with av.logging.Capture() as log:
        yield log


@functools.cache
def _mute_pyav() -> None:
    """Keep PyAV's log from the terminal, once a process."""
    logging.getLogger("libav").addHandler(logging.NullHandler())
    logging.getLogger("libav").propagate = False


def _name_class(context: Any) -> bytes | None:
    found = ctypes.cast(context, _Context) if context else None
    return found[0][0] if found and found[0] else None
