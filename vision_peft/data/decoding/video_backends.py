"""Choose what decodes videos: decord, torchcodec or PyAV, whichever is installed and asked for.

PyAV looks at every file and decodes what the others do not get (`video_index.py`), so it has to be there. decord comes
first of those that jump to a frame; it has wheels for x86-64 only. torchcodec (the extra `video`) needs ffmpeg's
libraries. Both have to let their ffmpeg's errors be heard (`native_log.py`).
"""

import ctypes
import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from vision_peft.data.decoding.native_log import listen_to
from vision_peft.data.problems import unknown

_NO_LIBRARIES = "ffmpeg's libraries are not installed, or in a version that it cannot load"
_SILENT = "its ffmpeg does not report damage in a file"
MODULES = {"decord": "decord", "torchcodec": "torchcodec.decoders", "pyav": "av"}  # in the order they are tried


def usable_backends() -> list[str]:
    """Return the backends that are installed, in the order in which they are tried."""
    return [name for name in MODULES if explain_absence(name) is None]


def choose_backends(backend: str) -> list[str]:
    """Return the backends to try for `backend` (`data.decoder`), which may be "auto".

    Raises:
        ValueError: an unknown backend.
        ImportError: it, or PyAV, is not installed.
    """
    if backend != "auto" and backend not in MODULES:
        raise unknown("video decoder", backend, ("auto", *MODULES))
    asked = list(MODULES) if backend == "auto" else [backend]
    usable = [name for name in asked if explain_absence(name) is None]
    if reason := explain_absence("pyav"):
        raise ImportError(f"videos need PyAV, which inspects every file first ({reason}): pip install av")
    if not usable:
        reason = f"{backend}: {explain_absence(backend)}"
        raise ImportError(f"no video decoder ({reason}). decord has wheels for x86-64 only: give data.decoder=auto")
    return usable


def check_backend(backend: str) -> None:
    """Raise what `choose_backends` raises for `backend`."""
    choose_backends(backend)


@functools.cache
def explain_absence(name: str) -> str | None:
    """Say why a backend cannot be used here, None where it can."""
    try:
        loaded: Any = importlib.import_module(MODULES[name])
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: torchcodec without ffmpeg's libraries
        return " ".join(str(error).split("\n")[0].split())
    if name == "torchcodec":
        try:
            loaded.VideoDecoder(b"no video")  # newer versions look for ffmpeg's libraries at the first video only
        except Exception as error:  # there is always one, whose class depends on the version
            if "libtorchcodec" in str(error):
                return _NO_LIBRARIES
    if name == "decord":
        loaded.logging.set_level(loaded.logging.QUIET)  # every damaged file is reported by its error, once
    if name != "pyav":
        try:
            listen_to(name)
        except (AttributeError, OSError):
            return _SILENT
    return None


def explain_absence_quickly(name: str) -> str | None:
    """Say what `explain_absence` says; of torchcodec, whose import takes seconds, by loading its libraries alone.

    They are linked with torch: where that is not imported, or torchcodec is, or keeps its libraries elsewhere, it is
    imported after all.
    """
    spec = importlib.util.find_spec(name) if name == "torchcodec" and "torch" in sys.modules else None
    if spec is None or name in sys.modules:
        return explain_absence(name)
    (folder,) = spec.submodule_search_locations or [""]
    cores = sorted(Path(folder).glob("libtorchcodec_core*"), reverse=True)  # the newest ffmpeg first, as it does
    if not cores:
        return explain_absence(name)
    for core in cores:
        try:
            library = ctypes.CDLL(str(core))
            ctypes.CDLL(str(core.with_name(core.name.replace("core", "custom_ops"))))
        except OSError:
            continue
        return None if hasattr(library, "av_log_set_callback") else _SILENT
    return _NO_LIBRARIES
