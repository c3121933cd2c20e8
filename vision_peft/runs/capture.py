"""Collect what is logged and warned of before a run has a log, which then gets it."""

import contextlib
import logging
import queue
import warnings
from collections.abc import Iterator
from logging.handlers import QueueHandler

from vision_peft.printable import warn


@contextlib.contextmanager
def capture_log(name: str) -> Iterator[list[str]]:
    """Collect what the logger `name` says inside, one record an entry, for the run's log once that is open."""
    logger, records = logging.getLogger(name), queue.SimpleQueue()
    handler, level, words = QueueHandler(records), logger.level, []
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield words
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        while not records.empty():
            words.append(records.get().getMessage())


@contextlib.contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Collect the warnings issued inside as lines for the run's log, each once; after an error they are shown."""
    words: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield words
    except BaseException:
        for text in dict.fromkeys(str(warning.message) for warning in caught):
            warn(text, stacklevel=3)
        raise
    words += dict.fromkeys(f"warning: {warning.message}" for warning in caught)
