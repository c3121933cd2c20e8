"""Where the words of a run go: the terminal and log.txt."""

import shutil
import time
from pathlib import Path
from typing import Protocol, TextIO

from vision_peft.runs.append_log import Journal


class Text(Protocol):
    """Takes lines, and a progress that replaces the one before."""

    def say(self, text: str) -> None: ...

    def progress(self, text: str, plain: bool) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """Prints. On a terminal the progress is one line that changes; elsewhere it is a line where `plain`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._on_terminal = stream, stream.isatty()
        self._width = 0

    def say(self, text: str) -> None:
        """Print a line."""
        self.close()
        print(text, file=self._stream, flush=True)

    def progress(self, text: str, plain: bool) -> None:
        """Print `text` over the progress before, or as a line."""
        if self._on_terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
            self._width = len(text)
        elif plain:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Clear the line of the progress."""
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=self._stream, flush=True)
            self._width = 0


class LogFile:
    """Appends lines with the time; of the progress those that are `plain`."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def say(self, text: str) -> None:
        """Append every line of `text`."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._journal.add("".join(f"{stamp}  {line}\n" for line in text.splitlines()))

    def progress(self, text: str, plain: bool) -> None:
        """Append `text` if `plain`."""
        if plain:
            self.say(text)

    def close(self) -> None:
        """Close the file."""
        self._journal.close()
