"""Choose what decodes videos: decord, torchcodec or PyAV, whichever is installed and asked for.

decord comes first: it is the faster of the two that need no system library. It has wheels for x86-64 only. torchcodec
(the extra `video`) needs ffmpeg's libraries. Which files each of them gets, `video_readers.py` says.
"""

import functools
import importlib
from typing import Any

from vision_peft.data.problems import unknown

MODULES = {"decord": "decord", "torchcodec": "torchcodec.decoders", "pyav": "av"}  # in the order they are tried


def usable_backends() -> list[str]:
    """Return the backends that are installed, in the order in which they are tried."""
    return [name for name in MODULES if explain_absence(name) is None]


def choose_backends(backend: str) -> list[str]:
    """Return the backends to try for `backend` (`data.decoder`), which may be "auto".

    Raises:
        ValueError: an unknown backend.
        ImportError: it, or with "auto" every one, is not installed.
    """
    if backend != "auto" and backend not in MODULES:
        raise unknown("video decoder", backend, ("auto", *MODULES))
    asked = list(MODULES) if backend == "auto" else [backend]
    usable = [name for name in asked if explain_absence(name) is None]
    if not usable:
        reasons = "; ".join(f"{name}: {explain_absence(name)}" for name in asked)
        others = usable_backends()
        hint = f"take data.decoder={others[0]}, or auto" if others else "pip install av"
        raise ImportError(f"no video decoder ({reasons}). decord has wheels for x86-64 only: {hint}")
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
                return "ffmpeg's libraries are not installed, or in a version that it cannot load"
    if name == "decord":
        loaded.logging.set_level(loaded.logging.QUIET)  # every damaged file is reported by its error, once
    return None
