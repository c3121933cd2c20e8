"""Loader processes that die are reported where the loader is read, and nowhere else.

torch raises its error from a signal handler, wherever the main process happens to be: inside a save it would be taken
for a failure to write, inside an evaluation for one of the model. Here the handler only notes it; the next reading of
a loader raises `LostWorker`, at once where one is waiting for a batch.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from vision_peft.origins import list_torch_frames

PATIENCE_S = 2.0  # after a broken pipe, for the word that a process was lost
Handler = Callable[[int, Any], Any]


class LostWorker(RuntimeError):
    """A process of a loader was killed, or does not answer; the message is torch's, with its number."""


class _Watch:
    """What is known of loader processes in this process: the loss that nobody has heard of, who is reading."""

    lost: str | None = None
    reading = False
    torch_handler: Handler | None = None


def _note_lost(number: int, frame: Any) -> None:
    """Handle SIGCHLD in place of torch's handler, which finds out whether a worker failed."""
    if _Watch.torch_handler is None:
        return
    try:
        _Watch.torch_handler(number, frame)
    except RuntimeError as error:
        _Watch.lost = " ".join(str(error).split())
        if _Watch.reading:
            _raise_lost()


def _raise_lost() -> None:
    if _Watch.lost is not None:
        text, _Watch.lost = _Watch.lost, None
        raise LostWorker(text) from None


def defer_errors() -> None:
    """Put this module's handler in place of the one that torch has set with the first worker processes."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and handler is not _note_lost:
        _Watch.torch_handler = handler
        signal.signal(signal.SIGCHLD, _note_lost)


@contextlib.contextmanager
def report_lost_workers() -> Iterator[None]:
    """Raise `LostWorker` here, and only here, where a loader process is lost; errors of samples pass as they are."""
    _Watch.reading = True
    try:
        _raise_lost()
        yield
    except RuntimeError as error:
        if type(error) is not RuntimeError or list_torch_frames(error)[-1:] != ["torch.utils.data.dataloader"]:
            raise
        raise LostWorker(" ".join(str(error).split())) from error
    except (OSError, EOFError):  # a pipe may break before the system says that the process at its other end is gone
        end = time.monotonic() + PATIENCE_S
        while _Watch.torch_handler is not None and time.monotonic() < end:
            time.sleep(0.01)  # where the loss becomes known it is raised
        raise
    finally:
        _Watch.reading = False
