"""Where the words of a run go: the terminal and log.txt."""

import re
import shutil
import textwrap
import time
from pathlib import Path
from typing import Protocol, TextIO

from vision_peft.printable import printable_lines, show, show_over
from vision_peft.runs.append_log import Journal

NO_BREAK = "\N{NO-BREAK SPACE}"


class Text(Protocol):
    """Takes lines, and a progress that replaces the one before."""

    def say(self, text: str, style: str | None = None) -> None: ...

    def progress(self, text: str, plain: bool) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """Prints. On a terminal the progress is one line that changes, and long lines break between words.

    Elsewhere the progress is a line where `plain`, and lines stay as they are.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._on_terminal = stream, stream.isatty()
        self._width = 0

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self.close()
        lines = break_lines(printable_lines(text), shutil.get_terminal_size().columns) if self._on_terminal else text
        show(lines, self._stream, style)

    def progress(self, text: str, plain: bool) -> None:
        """Print `text` over the progress before, or as a line."""
        if self._on_terminal:
            self._width = show_over(text[: shutil.get_terminal_size().columns - 1], self._width, self._stream)
        elif plain:
            show(text, self._stream)

    def close(self) -> None:
        """Clear the line of the progress."""
        if self._width:
            self._width = show_over("", self._width, self._stream)


def break_lines(text: str, width: int) -> str:
    """Break lines of more than `width` letters between words; what follows is moved in, behind a name in front."""
    lines = []
    for line in text.split("\n"):
        name = re.match(r"\w+ {2,}", line)
        indent = " " * (min(len(name[0]), 20) if name else 4)
        words = line.replace(" %", f"{NO_BREAK}%")
        breaks = len(line) > width >= len(indent) + max(map(len, words.split()), default=0)
        lines += _wrap(words, width, indent) if breaks else [line]
    return "\n".join(lines).replace(NO_BREAK, " ")


def _wrap(line: str, width: int, indent: str) -> list[str]:
    whole = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
    whole.subsequent_indent = indent
    return whole.wrap(line)


class LogFile:
    """Appends lines with the time; of the progress those that are `plain`."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def say(self, text: str, style: str | None = None) -> None:
        """Append every line of `text`, of which line ends alone make lines."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._journal.add(
            "".join(f"{stamp}  {line}\n" for line in printable_lines(text.removesuffix("\n")).split("\n"))
        )

    def progress(self, text: str, plain: bool) -> None:
        """Append `text` if `plain`."""
        if plain:
            self.say(text)

    def close(self) -> None:
        """Close the file."""
        self._journal.close()
